//! The reads of a bucket: single entries, many keys, scans and watch sessions. A read of one entry is one request. A read
//! of many entries is one request where the server supports it, and a consumer otherwise.
//!
//! | file | content |
//! |---|---|
//! | `get` | reads of one entry: any server, the leader, or a revision |
//! | `reply_stream` | requests with several replies |
//! | `get_many` | reads of many keys by name |
//! | `get_matching` | the entries that one filter matches, if there are few |
//! | `list_keys` | listings of keys |
//! | `filters` | the filters of a consumer for the patterns of a read |
//! | `backlog` | the messages that a first pass has yet to receive |
//! | `scan` | a finite read by a consumer |
//! | `gap_check` | the check that a range of revisions has no gap |
//! | `status` | the status of a bucket |
//! | `gap_proof` | the proof that a resumed watch session missed no removal |
//! | `watch` | one watch session |

pub(super) mod get;
pub(super) mod reply_stream;
pub(super) mod get_many;
pub(super) mod get_matching;
pub(super) mod list_keys;
pub(super) mod filters;
pub(super) mod backlog;
pub(super) mod scan;
pub(super) mod gap_check;
pub(super) mod status;
pub(super) mod gap_proof;
pub(super) mod watch;
