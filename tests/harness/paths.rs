//! Locations of the harness's files. They are below the target directory, so `cargo clean` removes them and git ignores
//! them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

/// Returns the harness's directory below the target directory. Creates it if it is missing.
pub(crate) fn home() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in a workspace");
    // `join` keeps an absolute CARGO_TARGET_DIR unchanged.
    let target = workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let home = target.join("kvtyped-tests");
    fs::create_dir_all(&home).unwrap_or_else(|e| panic!("cannot make {}: {e}", home.display()));
    home
}

/// Returns the path of a requirements file of this package.
pub(crate) fn requirements(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/requirements").join(name)
}

/// Creates a new, empty directory in `parent` that no other process or test uses.
pub(crate) fn fresh_dir(parent: &Path, name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("{name}-{}-{n}", process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => return dir,
            // A leftover of an earlier process with the same id.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => panic!("cannot make {}: {e}", dir.display()),
        }
    }
}
