use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
struct Tags(Vec<String>);

fn main() {}
