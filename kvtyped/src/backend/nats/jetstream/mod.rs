//! The JetStream protocol: streams, stored messages and consumers as the server represents them. Codes of the server end
//! in [`error`]. Nothing in this folder knows the operations of a bucket.
//!
//! | file | content |
//! |---|---|
//! | `error_code`, `error` | errors of the server, and their conversion to errors of this crate |
//! | `features` | API levels and versions of servers |
//! | `message` | a stored message and its headers |
//! | `counter_value` | the stored value of a counter |
//! | `index_subject` | the second subject of a stream, for index entries |
//! | `write_epochs` | the subjects and the subject transform of write epochs |
//! | `stream_config` | the settings of a bucket as a stream configuration |
//! | `fixed_settings` | the settings that every stream of a bucket has: comparison and repair |
//! | `stream_info` | a stream configuration as the settings of a bucket, and its status |
//! | `account` | the usage and the limits of an account |
//! | `api` | JSON requests and replies, and the repetition of requests that are safe to repeat |
//! | `stream_state` | the state of a stream according to its leader |
//! | `direct_get` | the reply to a direct get |
//! | `delivery` | the reply subject of a delivered message |
//! | `flow_window` | the number of unacknowledged messages of a consumer |
//! | `consumer_request`, `consumer_delete`, `consumer` | creation and deletion of an ordered consumer, and its messages |

pub(super) mod error_code;
pub(super) mod error;
pub(super) mod features;
pub(super) mod message;
pub(super) mod counter_value;
pub(super) mod index_subject;
pub(super) mod write_epochs;
pub(super) mod stream_config;
pub(super) mod fixed_settings;
pub(super) mod stream_info;
pub(super) mod account;
pub(super) mod api;
pub(super) mod stream_state;
pub(super) mod direct_get;
pub(super) mod delivery;
pub(super) mod flow_window;
pub(super) mod consumer_request;
pub(super) mod consumer_delete;
pub(super) mod consumer;
