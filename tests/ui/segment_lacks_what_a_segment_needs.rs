use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, KeySegment)]
struct Tenant(String);

fn main() {}
