//! Values of many shapes, for the codec tests.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Shape {
    Point,
    Circle(f64),
    Segment(i32, i32),
    Named { name: String, tags: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) delta: i64,
    pub(crate) ratio: f64,
    pub(crate) name: String,
    pub(crate) letter: char,
    pub(crate) flag: bool,
    pub(crate) note: Option<String>,
    pub(crate) parts: Vec<u16>,
    pub(crate) labels: BTreeMap<String, i32>,
    pub(crate) shape: Shape,
    pub(crate) pair: (u8, String),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tree {
    pub(crate) below: Vec<Tree>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct List(pub(crate) Vec<List>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Chain {
    pub(crate) next: Option<Box<Chain>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Peel {
    Core,
    Skin(Box<Peel>),
    Pair(Box<Peel>, Box<Peel>),
    Field { inner: Box<Peel> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t")]
pub(crate) enum Tagged {
    End,
    More { next: Box<Tagged> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Untagged {
    Number(u64),
    Many(Vec<Untagged>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Map(pub(crate) BTreeMap<String, Map>);
