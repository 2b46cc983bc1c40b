//! The operations that every side of a comparison implements.

use std::time::Duration;

use crate::record::Session;

/// The number of records that the tenant [`LISTED`] has.
pub(crate) const RECORDS: u64 = 10_000;
/// The tenant whose records are listed.
pub(crate) const LISTED: &str = "listed";
/// The number of records in one bulk write.
pub(crate) const BULK: u64 = 1_000;

/// A client and its server.
pub(crate) trait Side: Send {
    /// Writes a record.
    fn put(&mut self, record: &Session) -> impl Future<Output = ()> + Send;

    /// Reads and decodes a record.
    fn get(&mut self, record: &Session) -> impl Future<Output = Session> + Send;

    /// Changes a record that no other client changes at the same time. A conflict must be detected.
    fn modify(&mut self, record: &Session) -> impl Future<Output = ()> + Send;

    /// Replaces a record whose revision this client knows, with one conditional write.
    fn update(&mut self, record: &Session) -> impl Future<Output = ()> + Send;

    /// Acquires and releases a free lock.
    fn lock(&mut self) -> impl Future<Output = ()> + Send;

    /// Writes a watched record. Returns the time until its event is decoded.
    fn put_until_event(&mut self, record: &Session) -> impl Future<Output = Duration> + Send;

    /// Reads and decodes all records of the tenant [`LISTED`]. Returns their number.
    fn list(&mut self) -> impl Future<Output = usize> + Send;

    /// Fills a local copy of the same records. Only lists them on a server whose client has no such copy.
    fn cache(&mut self) -> impl Future<Output = usize> + Send {
        self.list()
    }

    /// Writes records atomically.
    fn transaction(&mut self, records: &[Session; 2]) -> impl Future<Output = ()> + Send;

    /// Writes records concurrently, without atomicity.
    fn put_many(&mut self, records: &[Session]) -> impl Future<Output = ()> + Send;
}
