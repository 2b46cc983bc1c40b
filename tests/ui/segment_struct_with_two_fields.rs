use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
struct Place {
    x: i32,
    y: i32,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
struct Nothing;

fn takes_a_segment<S: KeySegment>() {}

fn main() {
    takes_a_segment::<Place>();
}
