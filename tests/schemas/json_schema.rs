//! Schemas of types with `JsonSchema`, compared with the result of the probe.

#![allow(dead_code, reason = "serde and schemars read the fields")]

use std::collections::{BTreeMap, HashMap};

use kvtyped::schema::{Schema, Verdict, compare};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::inner;

#[derive(Deserialize, JsonSchema)]
struct Plain {
    a: u8,
    b: Option<i64>,
    c: Vec<String>,
    d: HashMap<String, bool>,
    e: (u8, char),
    f: [u16; 2],
    g: Option<Box<Plain>>,
    #[serde(default)]
    h: f32,
    i: Role,
    j: Option<Role>,
    k: (),
    l: usize,
    m: BTreeMap<String, Vec<Option<u128>>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Role {
    Admin,
    Guest,
    Named(String),
    Both(u8, u8),
    Fields { a: u8 },
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Strict {
    a: u8,
}

fn same<V: DeserializeOwned + JsonSchema>() {
    let (probed, described) = (Schema::probe::<V>(), Schema::of_json_schema::<V>());
    assert_eq!(inner(&described), inner(&probed), "{}", compare(&probed, &described));
}

#[test]
fn json_schema_agrees_with_probe() {
    same::<Plain>();
    same::<Role>();
    same::<Strict>();
    same::<Vec<Strict>>();
    same::<Option<u8>>();
    same::<bool>();
    same::<f64>();
    same::<std::net::IpAddr>();
}

#[test]
fn tags_and_flattened_fields_are_found() {
    #[derive(JsonSchema)]
    #[serde(tag = "type")]
    enum Tagged {
        A { a: u8, b: Option<String> },
        B,
    }
    #[derive(JsonSchema)]
    #[serde(tag = "t", content = "c")]
    enum Adjacent {
        A(u8),
        B { b: String },
        C,
    }
    #[derive(JsonSchema)]
    #[serde(untagged)]
    enum Untagged {
        A { a: u8 },
        B(String),
    }
    #[derive(JsonSchema)]
    struct Flat {
        id: u8,
        #[serde(flatten)]
        rest: Strict2,
    }
    #[derive(JsonSchema)]
    struct Strict2 {
        name: String,
        #[serde(default)]
        age: u8,
    }
    fn shape<V: JsonSchema>() -> String {
        inner(&Schema::of_json_schema::<V>())
    }
    assert_eq!(
        shape::<Tagged>(),
        concat!(
            r#"{"enum":{"A":{"content":{"struct":{"a":{"type":"u8"},"b":{"presence":"optional","type":{"option":"text"}}}}},"#,
            r#""B":{"content":{"struct":{}}}},"tag":"type"}"#
        )
    );
    assert_eq!(
        shape::<Adjacent>(),
        concat!(
            r#"{"enum":{"A":{"content":{"struct":{"c":{"type":"u8"}}}},"#,
            r#""B":{"content":{"struct":{"c":{"type":{"struct":{"b":{"type":"text"}}}}}}},"#,
            r#""C":{"content":{"struct":{}}}},"tag":"t"}"#
        )
    );
    assert_eq!(shape::<Untagged>(), r#""open""#);
    assert_eq!(
        shape::<Flat>(),
        r#"{"struct":{"age":{"presence":"optional","type":"u8"},"id":{"type":"u8"},"name":{"type":"text"}}}"#
    );
    let (one, two) = (Schema::of_json_schema::<Tagged>(), Schema::of_json_schema::<Adjacent>());
    assert_eq!(compare(&one, &two).backward(), Verdict::No);
}

#[test]
fn unusual_json_schemas_are_open() {
    let mut deep = json!({ "type": "null" });
    for _ in 0..200 {
        deep = json!({ "type": "array", "items": deep });
    }
    let bomb = json!({
        "prefixItems": [{ "$ref": "#/$defs/a" }, { "$ref": "#/$defs/a" }], "type": "array",
        "$defs": {
            "a": { "type": "array", "prefixItems": vec![json!({ "$ref": "#/$defs/b" }); 64] },
            "b": { "type": "array", "prefixItems": vec![json!({ "$ref": "#/$defs/c" }); 64] },
            "c": { "type": "array", "prefixItems": vec![json!({ "$ref": "#/$defs/d" }); 64] },
            "d": { "type": "null" },
        }
    });
    for schema in [
        json!(true),
        json!(null),
        json!({}),
        json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/a" } } }),
        json!({ "$ref": "https://example.com" }),
        json!({ "type": ["string", "integer"] }),
        json!({ "type": "integer" }),
        json!({ "oneOf": [true] }),
        json!({ "allOf": [{ "type": "null" }] }),
        json!({ "type": "array", "items": { "type": "null" }, "minItems": 1_000_000_000, "maxItems": 1_000_000_000 }),
    ] {
        assert!(Schema::from_json_schema(&schema).is_open(), "{schema}");
    }
    let mut array = json!({ "type": "null" });
    for _ in 0..10 {
        array = json!({ "type": "array", "items": array, "minItems": 60, "maxItems": 60 });
    }
    for schema in [deep, bomb, array, json!({ "type": "array", "items": { "$ref": "#" } })] {
        let schema = Schema::from_json_schema(&schema);
        assert_eq!(Schema::from_json(&schema.to_json()).unwrap(), schema);
    }
}
