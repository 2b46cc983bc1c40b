pub(super) mod watch;
pub(super) mod scan;
pub(super) mod gap_proof;
pub(super) mod backlog;
pub(super) mod reply_stream;
pub(super) mod get_matching;
pub(super) mod get_many;
pub(super) mod get;
