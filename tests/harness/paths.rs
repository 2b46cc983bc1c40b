//! Where the harness keeps its files: below the target directory, so that
//! `cargo clean` takes them away and git never sees them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

/// The harness's own folder below the target directory; made if missing.
pub(crate) fn home() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in a workspace");
    // `join` keeps an absolute CARGO_TARGET_DIR as it is.
    let target = workspace.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let home = target.join("kvtyped-tests");
    fs::create_dir_all(&home).unwrap_or_else(|e| panic!("cannot make {}: {e}", home.display()));
    home
}

/// A requirements file of this package.
pub(crate) fn requirements(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/requirements").join(name)
}

/// Makes a new, empty folder in `parent` that no other process or test uses.
pub(crate) fn fresh_dir(parent: &Path, name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = parent.join(format!("{name}-{}-{n}", process::id()));
        match fs::create_dir(&dir) {
            Ok(()) => return dir,
            // A leftover of a process that had the same id.
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => panic!("cannot make {}: {e}", dir.display()),
        }
    }
}
