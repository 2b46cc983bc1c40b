//! Base64 (RFC 4648), in canonical form only.

/// An alphabet, with or without padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// With `-` and `_`, without padding.
    Url,
    /// With `+` and `/`, padded.
    Standard,
}

/// The characters of an alphabet, and of each byte its value in the alphabet.
struct Table {
    characters: [u8; 64],
    values: [u8; 256],
}

/// The value of a byte that is not in the alphabet.
const NONE: u8 = 0xff;

const fn table(last: [u8; 2]) -> Table {
    let mut table = Table { characters: [0; 64], values: [NONE; 256] };
    let mut value = 0;
    while value < 64 {
        let character = match value {
            0..26 => b'A' + value,
            26..52 => b'a' + (value - 26),
            52..62 => b'0' + (value - 52),
            62 => last[0],
            _ => last[1],
        };
        table.characters[value as usize] = character;
        table.values[character as usize] = value;
        value += 1;
    }
    table
}

static URL: Table = table(*b"-_");
static STANDARD: Table = table(*b"+/");

impl Alphabet {
    fn table(self) -> &'static Table {
        match self {
            Self::Url => &URL,
            Self::Standard => &STANDARD,
        }
    }
}

/// Appends the text of `bytes`, which is ASCII.
pub(super) fn encode(bytes: &[u8], alphabet: Alphabet, out: &mut Vec<u8>) {
    let Table { characters, .. } = alphabet.table();
    let character = |six: u8| characters[usize::from(six & 63)];
    let (whole, rest) = bytes.as_chunks::<3>();
    for &[a, b, c] in whole {
        out.extend_from_slice(&[
            character(a >> 2),
            character(a << 4 | b >> 4),
            character(b << 2 | c >> 6),
            character(c),
        ]);
    }
    let padding: &[u8] = if alphabet == Alphabet::Standard { b"==" } else { b"" };
    match *rest {
        [a] => {
            out.extend_from_slice(&[character(a >> 2), character(a << 4)]);
            out.extend_from_slice(padding);
        }
        [a, b] => {
            out.extend_from_slice(&[character(a >> 2), character(a << 4 | b >> 4), character(b << 2)]);
            out.extend_from_slice(padding.get(1..).unwrap_or_default());
        }
        _ => {}
    }
}

/// Appends the bytes whose text is `text`. Returns `None` if [`encode`] does not write `text`.
pub(super) fn decode(text: &[u8], alphabet: Alphabet, out: &mut Vec<u8>) -> Option<()> {
    let Table { values, .. } = alphabet.table();
    let digits = match (alphabet, text) {
        (Alphabet::Standard, _) if !text.len().is_multiple_of(4) => return None,
        (Alphabet::Standard, [digits @ .., b'=', b'=']) => digits,
        (Alphabet::Standard, [digits @ .., b'=']) => digits,
        _ => text,
    };
    let mut is_legal = true;
    let mut value = |digit: u8| {
        let value = values[usize::from(digit)];
        is_legal &= value != NONE;
        value
    };
    let (whole, rest) = digits.as_chunks::<4>();
    for &[a, b, c, d] in whole {
        let [a, b, c, d] = [value(a), value(b), value(c), value(d)];
        out.extend_from_slice(&[a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d]);
    }
    // Bits that no byte holds are zero in the one text that `encode` writes.
    let unused = match *rest {
        [] => 0,
        [a, b] => {
            let [a, b] = [value(a), value(b)];
            out.push(a << 2 | b >> 4);
            b << 4
        }
        [a, b, c] => {
            let [a, b, c] = [value(a), value(b), value(c)];
            out.extend_from_slice(&[a << 2 | b >> 4, b << 4 | c >> 2]);
            c << 6
        }
        _ => return None,
    };
    (is_legal && unused == 0).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(bytes: &[u8], alphabet: Alphabet) -> Vec<u8> {
        let mut out = Vec::new();
        encode(bytes, alphabet, &mut out);
        out
    }

    #[test]
    fn encoding_matches_rfc_test_vectors() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(encoded(bytes.as_bytes(), Alphabet::Standard), text.as_bytes());
            assert_eq!(encoded(bytes.as_bytes(), Alphabet::Url), text.trim_end_matches('=').as_bytes());
        }
        assert_eq!(encoded(&[0xfb, 0xff], Alphabet::Standard), b"+/8=");
        assert_eq!(encoded(&[0xfb, 0xff], Alphabet::Url), b"-_8");
    }

    /// Every text of up to four of these characters: it is decoded exactly if encoding writes it.
    #[test]
    fn decoding_accepts_only_canonical_encodings() {
        const CHARACTERS: &[u8; 13] = b"AQgw09+/-_=.\xc3";
        for alphabet in [Alphabet::Url, Alphabet::Standard] {
            let mut accepted = 0;
            for number in 0..14_usize.pow(4) {
                let digits = (0..4).map(|at| number / 14_usize.pow(at) % 14);
                let text: Vec<u8> = digits.filter_map(|digit| CHARACTERS.get(digit).copied()).collect();
                let mut bytes = Vec::new();
                if decode(&text, alphabet, &mut bytes).is_some() {
                    assert_eq!(encoded(&bytes, alphabet), text);
                    accepted += 1;
                }
            }
            assert!(accepted > 1_000, "{accepted}");
        }
        for byte in 0..=u8::MAX {
            for bytes in [vec![byte], vec![byte, !byte], vec![byte, 0, !byte], vec![255, byte, 0, byte]] {
                for alphabet in [Alphabet::Url, Alphabet::Standard] {
                    let mut out = b"before".to_vec();
                    assert_eq!(decode(&encoded(&bytes, alphabet), alphabet, &mut out), Some(()));
                    assert_eq!(out, [b"before", &*bytes].concat());
                }
            }
        }
    }
}
