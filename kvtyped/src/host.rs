//! The name of this machine.

use std::sync::OnceLock;

/// Returns the name of this machine, if the operating system offers it as a file or a variable.
pub(crate) fn host_name() -> Option<&'static str> {
    static NAME: OnceLock<Option<String>> = OnceLock::new();
    NAME.get_or_init(|| {
        let file = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let variable = |name| std::env::var(name).ok();
        let found = [file, variable("HOSTNAME"), variable("COMPUTERNAME")];
        found.into_iter().flatten().map(|name| name.trim().to_owned()).find(|name| !name.is_empty())
    })
    .as_deref()
}
