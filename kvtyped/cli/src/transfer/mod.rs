//! The format of exports: a header line with the settings of a bucket, a line for each record in the order of
//! revisions, and an end line.

pub(crate) mod counts;
pub(crate) mod input;
pub(crate) mod line;
pub(crate) mod resume;
pub(crate) mod writer;
