//! The way from a URL to a request: options, authentication, TLS, and one connection that survives the end of a client.
//! Errors of async-nats end here: in [`reply`] for requests, and in [`connect`] for connections. Nothing in this folder
//! knows JetStream.
//!
//! | file | content |
//! |---|---|
//! | `secret_file` | files with secrets, which are read for every connection |
//! | `credentials`, `tls` | authentication and encryption |
//! | `options`, `url` | connection options, from a builder and from a URL |
//! | `per_connection` | a value that is valid for one connection |
//! | `ticker` | the shared timer that wakes waiting requests |
//! | `violations` | subjects that the server denied |
//! | `connect` | creation of clients from the options |
//! | `link` | the client of a connection, and its replacement when its task ends |
//! | `monitor` | the state of a connection, as callers observe it |
//! | `reply` | the result of one request |
//! | `connection` | requests on a connection, and the reasons for a missing reply |

pub(super) mod secret_file;
pub(super) mod credentials;
pub(super) mod tls;
pub(super) mod options;
pub(super) mod url;
pub(super) mod per_connection;
pub(super) mod ticker;
pub(super) mod violations;
pub(super) mod connect;
pub(super) mod link;
pub(super) mod monitor;
pub(super) mod reply;
#[expect(clippy::module_inception, reason = "the folder holds the way to a connection, and the file the connection")]
pub(super) mod connection;
