//! The error codes of the JetStream API (`errors.json` of nats-server 2.15) with a special meaning for one operation.
//!
//! Codes with the same meaning for every operation are in [`error`](super::error).

/// The server knows no stream with this name.
pub(crate) const STREAM_NOT_FOUND: u64 = 10059;

/// The stream has no such message.
pub(crate) const MESSAGE_NOT_FOUND: u64 = 10037;

/// The key does not have the expected revision. The description contains the actual revision.
pub(crate) const WRONG_LAST_SEQUENCE: u64 = 10071;

/// Another write of the checked key is in flight.
pub(crate) const WRONG_LAST_SEQUENCE_IN_FLIGHT: u64 = 10164;

/// Another message with the same id is in flight.
pub(crate) const DUPLICATE_IN_FLIGHT: u64 = 10158;

/// The message exceeds the `max_msg_size` of the stream.
pub(crate) const MESSAGE_TOO_LARGE: u64 = 10054;

/// The headers of the message are too large for any stream.
pub(crate) const HEADERS_TOO_LARGE: u64 = 10097;

/// The server could not store the message: the stream is full, or the disk fails.
pub(crate) const STORE_FAILED: u64 = 10077;

/// The TTL of the message is invalid.
pub(crate) const INVALID_MESSAGE_TTL: u64 = 10165;

/// The stream allows no TTL for a message.
pub(crate) const MESSAGE_TTL_DISABLED: u64 = 10166;

/// The stream allows no rollups.
pub(crate) const ROLLUP_DISABLED: u64 = 10111;

/// The stream of counters received a message without an increment.
pub(crate) const INCREMENT_MISSING: u64 = 10169;

/// The stream accepts no atomic batches.
pub(crate) const BATCH_DISABLED: u64 = 10174;

/// The server did not receive every message of the batch.
pub(crate) const BATCH_INCOMPLETE: u64 = 10176;

/// The batch has too many messages.
pub(crate) const BATCH_TOO_LARGE: u64 = 10199;

/// The batch contains a message with a known id.
pub(crate) const BATCH_DUPLICATE: u64 = 10201;

/// The `inactive_threshold` of the consumer is too long.
pub(crate) const INACTIVE_THRESHOLD_TOO_LONG: u64 = 10153;

/// The `max_ack_pending` of the consumer exceeds a limit.
pub(crate) const MAX_ACK_PENDING_EXCEEDED: u64 = 10121;

/// The settings of the stream are invalid. Some versions report these two with the status of an internal error.
pub(crate) const INVALID_STREAM_CONFIG: u64 = 10052;
pub(crate) const REPLICAS_NOT_SUPPORTED: u64 = 10074;
