//! A small file system in memory.

use std::fs;
use std::process::Command;

use super::folder::Folder;

/// A folder with a separate file system.
pub(crate) struct SmallDisk(pub(crate) Folder);

impl SmallDisk {
    /// Mounts a file system of this size. Returns `None` if this process may not.
    pub(crate) fn new(name: &str, megabytes: u32) -> Option<Self> {
        let disk = Self(Folder::new(name));
        let is_mounted = disk.mount(&format!("size={megabytes}m"));
        if !is_mounted {
            eprintln!("NOT DONE: {name}: no file system can be mounted here");
        }
        is_mounted.then_some(disk)
    }

    /// Makes the file system larger.
    pub(crate) fn grow(&self, megabytes: u32) {
        assert!(self.mount(&format!("remount,size={megabytes}m")), "the file system grows");
    }

    /// Fills the file system with another file.
    pub(crate) fn fill(&self) {
        use std::io::Write;
        let mut ballast = fs::File::create(self.0.path("ballast")).expect("the file is created");
        while ballast.write_all(&[7; 4_096]).is_ok() {}
    }

    /// Removes the other file.
    pub(crate) fn make_room(&self) {
        fs::remove_file(self.0.path("ballast")).expect("the file is removed");
    }

    fn mount(&self, options: &str) -> bool {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(self.0.path("")).output();
        mount.is_ok_and(|output| output.status.success())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path("")).status();
    }
}
