//! The Python client of NATS, to test that both languages read the same bytes.

use crate::binary::run as run_command;
use crate::paths;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

/// The version in `requirements/nats-py.txt`.
const VERSION: &str = "2.16.0";

/// Returns a directory for `PYTHONPATH` with the pinned `nats-py`. Installs it on first use.
///
/// # Panics
///
/// Panics if pip cannot install the client.
pub fn nats_py() -> PathBuf {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(install).clone().unwrap_or_else(|why| panic!("no Python client: {why}"))
}

fn install() -> Result<PathBuf, String> {
    let home = paths::home();
    let place = home.join(format!("nats-py-{VERSION}"));
    if place.is_dir() {
        return Ok(place);
    }
    let scratch = paths::fresh_dir(&home, "pip");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--no-deps", "--only-binary=:all:", "--target"]).arg(&scratch);
    pip.args(["--require-hashes", "-r"]).arg(paths::requirements("nats-py.txt"));
    let installed = run_command(&mut pip);
    // Another process may have finished first. Its directory is complete and stays.
    let renamed = installed.is_ok() && fs::rename(&scratch, &place).is_ok();
    if !renamed {
        let _ = fs::remove_dir_all(&scratch);
    }
    match installed {
        Ok(_) if place.is_dir() => Ok(place),
        Ok(_) => Err(format!("cannot put it at {}", place.display())),
        Err(why) => Err(why),
    }
}

/// Runs a Python script with the client on its path and `args` in `sys.argv[1:]`. Returns its output. Does not block
/// the caller's runtime.
///
/// # Panics
///
/// Panics with the stderr of the script if it fails.
pub async fn run(script: &str, args: &[&str]) -> String {
    let script = script.to_owned();
    let args: Vec<String> = args.iter().map(|&arg| arg.to_owned()).collect();
    let ran = tokio::task::spawn_blocking(move || {
        let mut path = vec![nats_py()];
        path.extend(env::split_paths(&env::var_os("PYTHONPATH").unwrap_or_default()));
        let path = env::join_paths(path).expect("the paths hold no separator");
        run_command(Command::new("python3").env("PYTHONPATH", path).args(["-c", &script]).args(args))
    });
    match ran.await.unwrap_or_else(|failed| resume_unwind(failed.into_panic())) {
        Ok(printed) => printed,
        Err(why) => panic!("{why}"),
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn python_client_puts_and_gets_a_value() {
        let script = r#"
import asyncio, sys, nats
async def main():
    nc = await nats.connect(sys.argv[1])
    kv = await nc.jetstream().create_key_value(bucket="python_selftest")
    await kv.put("k", b"v")
    print((await kv.get("k")).value.decode())
    await nc.close()
asyncio.run(main())
"#;
        let server = crate::shared().await;
        assert_eq!(super::run(script, &[&server.url()]).await, "v\n");
    }

    #[tokio::test]
    #[should_panic(expected = "ZeroDivisionError")]
    async fn failing_script_reports_its_error() {
        super::run("1/0", &[]).await;
    }
}
