//! Pairs of shapes without common structure.

use crate::schema::report::{Effect, Verdict};
use crate::schema::shape::{Int, Shape};

/// Returns whether a reader of `reader` reads values of `writer`, for two shapes that are compared as a whole.
pub(super) fn reads(writer: &Shape, reader: &Shape, is_key: bool) -> Effect {
    let by_data = |reason: String| Effect::new(Verdict::DataDecides, reason);
    match (writer, reader) {
        _ if writer == reader => Effect::yes(),
        (Shape::Open, _) | (_, Shape::Open) => by_data("an open shape makes no promise".to_owned()),
        (Shape::Int(written), Shape::Int(read)) if read.holds(*written) => Effect::yes(),
        (Shape::Int(_), Shape::Int(read)) => by_data(format!("numbers beyond {read} cannot be read")),
        (Shape::Int(Int { bits: 128, .. }), Shape::Float(_)) => by_data("the codec decides".to_owned()),
        (Shape::Int(_) | Shape::Float(32), Shape::Float(_)) => Effect::yes(),
        (Shape::Float(_), Shape::Float(_)) => by_data("large numbers cannot be read, others lose precision".to_owned()),
        (Shape::Char | Shape::ParsedText, Shape::Text) | (Shape::Unit, Shape::Option(_)) => Effect::yes(),
        (Shape::Text | Shape::ParsedText, Shape::Char) => by_data("texts of other lengths cannot be read".to_owned()),
        (Shape::Text | Shape::Char, Shape::ParsedText) => {
            by_data("texts that the type refuses cannot be read".to_owned())
        }
        (Shape::Option(_), Shape::Unit) => by_data("only absent values can be read".to_owned()),
        (Shape::Seq(_) | Shape::Tuple(_), Shape::Seq(_) | Shape::Tuple(_)) => {
            by_data("the number of items decides".to_owned())
        }
        // Formats differ: JSON writes bytes as numbers, keys as texts, and a struct may be read from a sequence.
        _ if is_key => by_data("the codec decides which keys can be read".to_owned()),
        _ if is_similar(writer, reader) || is_similar(reader, writer) => {
            by_data(format!("some encodings of {writer} can be read as {reader}"))
        }
        _ => Effect::new(Verdict::No, format!("{writer} cannot be read as {reader}")),
    }
}

/// Returns whether some format encodes some values of two different kinds alike.
///
/// MessagePack writes integers of 128 bits as bytes, and reads a number as the variant of that index.
fn is_similar(one: &Shape, two: &Shape) -> bool {
    let is_sequence = matches!(two, Shape::Seq(_) | Shape::Tuple(_));
    let is_text = matches!(two, Shape::Text | Shape::ParsedText | Shape::Char);
    match one {
        Shape::Bytes => is_sequence || is_text,
        Shape::Int(Int { bits: 128, .. }) => {
            is_sequence || matches!(two, Shape::Bytes | Shape::Struct(_) | Shape::Enum(_))
        }
        Shape::Int(_) => matches!(two, Shape::Enum(_)),
        Shape::Struct(_) => is_sequence || matches!(two, Shape::Map(..) | Shape::Enum(_)),
        Shape::Enum(_) => is_text || matches!(two, Shape::Map(..)),
        Shape::Unit => matches!(two, Shape::Tuple(items) if items.is_empty()),
        _ => false,
    }
}
