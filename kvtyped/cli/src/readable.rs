//! Lists with items that cannot be read.

use futures::{Stream, StreamExt};

use crate::app::App;
use crate::fail::{Code, Failure, message_of};

/// The items of a list. Items that cannot be read are reported and skipped.
pub(crate) struct Readable<'a, S> {
    app: &'a App,
    items: S,
    code: Code,
}

impl<'a, T, S: Stream<Item = kvtyped::Result<T>> + Unpin> Readable<'a, S> {
    pub(crate) fn new(app: &'a App, items: S) -> Self {
        Self { app, items, code: Code::Success }
    }

    /// Returns the next item.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Failure> {
        loop {
            match self.items.next().await.transpose() {
                Ok(item) => return Ok(item),
                Err(error) if error.key().is_some() => {
                    self.app.out.warn(&message_of(&error));
                    self.code = Code::Data;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns the list.
    pub(crate) fn items(&self) -> &S {
        &self.items
    }

    /// Returns the exit code: that of undecodable data if an item was skipped.
    pub(crate) fn code(&self) -> Code {
        self.code
    }
}

/// Returns a result. Reports an error and returns `None` if the bucket is one of all buckets.
pub(crate) fn of_bucket<T>(app: &App, is_named: bool, result: kvtyped::Result<T>) -> Result<Option<T>, Failure> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_named => Err(error.into()),
        Err(error) => {
            app.out.warn(&message_of(&error));
            Ok(None)
        }
    }
}
