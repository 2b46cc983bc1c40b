use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
enum Region {
    Eu,
    Us(String),
    Other { name: String },
}

fn takes_a_segment<S: KeySegment>() {}

fn main() {
    takes_a_segment::<Region>();
}
