//! Opens a bucket without a model.

use std::future::IntoFuture;
use std::time::Duration;

use futures::future::BoxFuture;

use super::handle::Bucket;
use super::open::{OpenBucket, OpenReadBucket};
use crate::config::Drift;
use crate::error::Result;
use crate::model::RawRecord;

/// Opens an existing bucket without its model; see [`Store::raw`](crate::Store::raw).
#[must_use = "nothing is opened until it is awaited"]
#[derive(Debug)]
pub struct OpenRawBucket {
    open: OpenBucket<RawRecord>,
}

impl OpenRawBucket {
    pub(crate) fn new(open: OpenBucket<RawRecord>, name: String) -> Self {
        Self { open: open.name(name).must_exist().on_drift(Drift::Adopt) }
    }

    /// Sets the timeout of opening, which is also the default timeout of the bucket's operations. Default: the store's
    /// timeout.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { open: self.open.timeout(timeout) }
    }

    /// Opens the bucket for reading.
    pub fn read_only(self) -> OpenReadBucket<RawRecord> {
        self.open.read_only()
    }
}

impl IntoFuture for OpenRawBucket {
    type Output = Result<Bucket<RawRecord>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        self.open.into_future()
    }
}
