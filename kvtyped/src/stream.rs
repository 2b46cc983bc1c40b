//! The stream traits of the crate `futures`, by name.
//!
//! The [prelude](crate::prelude) imports their methods without their names, so that they do not clash with the names of
//! other crates.
//!
//! ```
//! use kvtyped::Store;
//! use kvtyped::stream::TryStreamExt;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), kvtyped::Error> {
//! # let store = Store::memory();
//! # let _: kvtyped::recipes::Locks = store.locks("jobs").await?;
//! let raw = store.raw("jobs").await?;
//! let keys: Vec<kvtyped::Key> = raw.keys(..).await?.try_collect().await?;
//! assert!(keys.is_empty());
//! # Ok(())
//! # }
//! ```

pub use futures::{Stream, StreamExt, TryStreamExt};
