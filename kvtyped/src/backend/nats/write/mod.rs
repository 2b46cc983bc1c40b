//! The writes of a bucket: single writes, atomic batches, increments of counters, and purges. Each write of a record is
//! a message with an operation id. If its acknowledgement is lost, [`recover_ack`] determines the outcome.
//!
//! | file | content |
//! |---|---|
//! | `ack` | the reply to a message |
//! | `request` | one write as a message, and the outcome that a reply reports |
//! | `epoch_refusal` | the decision about a write that no server accepted |
//! | `recover_ack` | the engine that recovers a lost acknowledgement |
//! | `publish_entry` | the attempts of a single index entry |
//! | `publish` | the attempts of a single write |
//! | `batch` | the messages of an atomic batch |
//! | `commit` | the attempts of a batch |
//! | `increment` | the attempts of an increment |
//! | `purge` | removal of the stored entries of a key |

pub(super) mod ack;
pub(super) mod request;
pub(super) mod epoch_refusal;
pub(super) mod recover_ack;
pub(super) mod publish_entry;
pub(super) mod publish;
pub(super) mod batch;
pub(super) mod commit;
pub(super) mod increment;
pub(super) mod purge;
