use kvtyped::prelude::*;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
#[kv(rename_all = "snakecase", rename = "x", prefix = "y")]
enum Region {
    #[kv(rename_to = "eu")]
    Eu,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
#[kv(rename_all = "snake_case")]
struct Id(#[kv(rename = "x")] u64);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, KeySegment)]
enum Never {}

fn takes_a_segment<S: KeySegment>() {}

fn main() {
    takes_a_segment::<Region>();
}
