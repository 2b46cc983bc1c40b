//! The JavaScript client of NATS, to see that both languages store the same keys.
//!
//! Unlike the Python client it may be missing: Node.js is not on every machine.

use crate::binary::run as run_command;
use crate::paths;
use std::fs;
use std::io::{self, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The version in `requirements/nats-js/package.json`.
const VERSION: &str = "3.4.0";
/// The oldest Node.js that the client supports.
const OLDEST: u32 = 18;

/// The folder `node_modules` that holds the pinned client. The first use installs it.
///
/// `None` if Node.js, npm or the package is missing. Then a line `NOT DONE` on stderr says why, also where the output of
/// tests is captured.
///
/// # Panics
///
/// If a package differs from its hash.
pub fn nats_js() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| match install() {
        Ok(modules) => Some(modules),
        Err(why) => {
            assert!(!why.contains("EINTEGRITY"), "{why}");
            // The macros would write to the captured output.
            let _ = writeln!(io::stderr(), "NOT DONE: the tests with nats.js: {}", why.trim_end());
            None
        }
    });
    found.clone()
}

fn install() -> Result<PathBuf, String> {
    let version = run_command(Command::new("node").arg("--version"))?;
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse().ok());
    if major.is_none_or(|major: u32| major < OLDEST) {
        return Err(format!("Node.js {OLDEST} is needed, found {version}"));
    }
    let home = paths::home();
    let place = home.join(format!("nats-js-{VERSION}"));
    let modules = place.join("node_modules");
    if modules.is_dir() {
        return Ok(modules);
    }
    let scratch = paths::fresh_dir(&home, "npm");
    let installed = fetch(&scratch);
    // Another process may have been faster: then its folder stays, which is complete, too.
    let renamed = installed.is_ok() && fs::rename(&scratch, &place).is_ok();
    if !renamed {
        let _ = fs::remove_dir_all(&scratch);
    }
    installed?;
    if modules.is_dir() { Ok(modules) } else { Err(format!("cannot put it at {}", place.display())) }
}

fn fetch(into: &Path) -> Result<(), String> {
    for file in ["package.json", "package-lock.json"] {
        let from = paths::requirements("nats-js").join(file);
        fs::copy(&from, into.join(file)).map_err(|e| format!("cannot copy {}: {e}", from.display()))?;
    }
    // `ci` installs exactly what the lock file names, and compares the hashes.
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=1"]);
    run_command(npm.current_dir(into)).map(drop)
}

/// Runs a script (CommonJS) that can load the client of [`nats_js`], and returns its output. The script finds `args` in
/// `process.argv.slice(1)`. The call does not block the runtime.
///
/// # Panics
///
/// Panics with the script's stderr if the script fails.
pub async fn run(modules: PathBuf, script: &str, args: &[&str]) -> String {
    let script = script.to_owned();
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let ran = tokio::task::spawn_blocking(move || {
        run_command(Command::new("node").env("NODE_PATH", modules).args(["--eval", &script, "--"]).args(args))
    });
    match ran.await.unwrap_or_else(|failed| resume_unwind(failed.into_panic())) {
        Ok(printed) => printed,
        Err(why) => panic!("{why}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_files_pin_version_and_hashes() {
        let pinned = fs::read_to_string(paths::requirements("nats-js").join("package.json")).unwrap();
        assert!(pinned.contains(&format!("\"@nats-io/kv\": \"{VERSION}\"")), "{pinned}");
        let locked = fs::read_to_string(paths::requirements("nats-js").join("package-lock.json")).unwrap();
        let hashes = locked.matches("\"integrity\": \"sha512-").count();
        assert_eq!(hashes, locked.matches("\"node_modules/").count(), "each package has a hash");
    }

    #[tokio::test]
    async fn failing_script_reports_its_error() {
        let Some(modules) = nats_js() else { return };
        let failed = tokio::spawn(run(modules, "missing()", &[])).await.unwrap_err().into_panic();
        let why = failed.downcast::<String>().expect("a message");
        assert!(why.contains("ReferenceError"), "{why}");
    }
}
