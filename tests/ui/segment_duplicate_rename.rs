use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
#[kv(rename_all = "lowercase")]
enum Region {
    Eu,
    #[kv(rename = "eu")]
    Europe,
    EU,
}

fn takes_a_segment<S: KeySegment>() {}

fn main() {
    takes_a_segment::<Region>();
}
