//! JSON, and text that only looks like it.

use serde_json::Value;

use super::*;
use crate::wire::random::{Random, rounds};

fn strict(text: &str) -> Json<'_> {
    Json::strict(text.as_bytes()).unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[cfg_attr(miri, ignore = "megabytes take Miri hours")]
#[test]
fn what_is_no_json_is_told_by_its_place() {
    for (text, want) in [
        ("", Broken::Short(0)),
        ("  ", Broken::Short(2)),
        ("[1,", Broken::Short(3)),
        ("\"a", Broken::Short(2)),
        ("\"a\\", Broken::Short(3)),
        ("[1] 2", Broken::Byte(4)),
        ("<html>", Broken::Byte(0)),
        ("]", Broken::Byte(0)),
        ("tru", Broken::Byte(2)),
        ("[1,]", Broken::Byte(3)),
        ("[\n1\n2]", Broken::Byte(4)),
        ("{\"a\" 1}", Broken::Byte(5)),
        ("{1:1}", Broken::Byte(1)),
        ("[\"\\x\"]", Broken::Byte(3)),
    ] {
        assert_eq!(Json::strict(text.as_bytes()), Err(want), "{text}");
    }
    assert_eq!(Json::strict(b"[\"\xff\"]"), Err(Broken::Encoding));
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert!(Json::strict(nested(DEPTH).as_bytes()).is_ok());
    assert_eq!(Json::strict(nested(DEPTH + 1).as_bytes()), Err(Broken::Deep));
    // A million levels cost nothing, and no stack.
    assert!(Json::outline(nested(1_000_000).as_bytes()).is_ok());
}

#[test]
fn fields_are_found_once_and_null_is_none() {
    let json = strict(r#" { "a" : 1 , "b":null,"\u0063":"x", "d":{"a":2} } "#);
    let [a, b, c, e] = json.fields(["a", "b", "c", "e"]).expect("an object");
    assert_eq!((a.and_then(Json::whole), b, e), (Some(1), None, None));
    assert!(c.is_some_and(|c| c.is("x")));
    assert_eq!(strict(r#"{"a":1,"b":2,"a":1}"#).fields(["a"]), Err(FieldsError::Twice("a")));
    assert_eq!(strict(r#"{"a":null,"a":1}"#).fields(["a"]), Err(FieldsError::Twice("a")));
    assert!(strict(r#"{"b":1,"b":2,"a":1}"#).field("a").is_some(), "what nobody asks for may come twice");
    assert_eq!(strict("[1]").fields(["a"]), Err(FieldsError::NotAnObject));
    assert!(strict("[1]").field("a").is_none() && strict("{}").items().is_none());
}

#[test]
fn texts_are_decoded_to_their_bound() {
    for (json, want) in [
        (r#""""#, Ok("")),
        (r#""plain""#, Ok("plain")),
        (r#""\"\\\/\b\f\n\r\t""#, Ok("\"\\/\u{8}\u{c}\n\r\t")),
        (r#""gr\u00fc\u00DFe \ud83e\udd80""#, Ok("grüße 🦀")),
        (r#""twelve bytes""#, Ok("twelve bytes")),
        (r#""one more byte""#, Err(TextError::TooLong(13))),
        (r#""\ud83e""#, Err(TextError::NoUnicode)),
        (r#""\ud83ex""#, Err(TextError::NoUnicode)),
        (r#""\udd80\ud83e""#, Err(TextError::NoUnicode)),
        (r#""\ud83e\u0041""#, Err(TextError::NoUnicode)),
        ("7", Err(TextError::NotText)),
        ("null", Err(TextError::NotText)),
    ] {
        assert_eq!(strict(json).text(12), want.map(str::to_owned), "{json}");
    }
    assert_eq!(Json::outline(b"\"a\xffb\"").expect("a text").text(12), Err(TextError::NoUnicode));
    for (json, most, want) in [
        (r#""grüße""#, 3, Some("gr")),
        (r#""grüße""#, 4, Some("grü")),
        (r#""gr\u00fc\u00dfe""#, 3, Some("gr")),
        (r#""a\ud83eb""#, 9, Some("a\u{fffd}b")),
        ("[]", 9, None),
    ] {
        assert_eq!(strict(json).beginning(most).as_deref(), want, "{json}");
    }
}

#[test]
fn numbers_are_finite_or_none() {
    for (json, number, whole, count) in [
        ("0", Some(0.0), Some(0), Some(0)),
        ("-0", Some(-0.0), Some(0), None),
        ("4294967295", Some(4_294_967_295.0), Some(4_294_967_295), Some(4_294_967_295)),
        ("18446744073709551615", Some(18_446_744_073_709_551_615.0), Some(i64::MAX), Some(u64::MAX)),
        ("18446744073709551616", Some(18_446_744_073_709_551_616.0), Some(i64::MAX), None),
        ("-9223372036854775808", Some(-9_223_372_036_854_775_808.0), Some(i64::MIN), None),
        ("1.5", Some(1.5), Some(1), None),
        ("1e308", Some(1e308), Some(i64::MAX), None),
        ("1e999", None, None, None),
        ("-1e999", None, None, None),
        ("\"1\"", None, None, None),
        ("null", None, None, None),
        ("true", None, None, None),
        ("[1]", None, None, None),
    ] {
        let json = Json::outline(json.as_bytes()).expect("a value");
        assert_eq!((json.number(), json.whole(), json.count()), (number, whole, count), "{json:?}");
    }
}

/// A random text that is mostly JSON.
fn document(random: &mut Random, depth: usize) -> String {
    let space = |random: &mut Random| ["", "", " ", "\n\t"][random.below(4)];
    let leaves = [
        "null",
        "true",
        "-1.5e3",
        "0",
        "18446744073709551615",
        "\"\"",
        "\"a\\\"]}\"",
        "\"ü\\u00e9\\ud83e\\udd80\"",
        "\"\\\\\"",
    ];
    let before = space(random);
    let value = match random.below(if depth > 4 { 1 } else { 3 }) {
        0 => leaves[random.below(leaves.len())].to_owned(),
        kind => {
            let parts: Vec<String> = (0..random.below(4))
                .map(|n| {
                    let key = if kind == 1 { String::new() } else { format!("\"k{n}\"{}:", space(random)) };
                    key + &document(random, depth + 1)
                })
                .collect();
            let (open, close) = if kind == 1 { ('[', ']') } else { ('{', '}') };
            format!("{open}{}{}{close}", parts.join(","), space(random))
        }
    };
    format!("{before}{value}{}", space(random))
}

/// The value as serde_json has it, read with nothing but what is here.
fn tree(json: Json<'_>) -> Value {
    match json.sort() {
        "an array" => Value::Array(json.items().expect("items").map(|item| tree(item.expect("an item"))).collect()),
        "an object" => {
            let members = json.members().expect("members").map(|member| member.expect("a member"));
            Value::Object(members.map(|(key, value)| (key.text(99).expect("a name"), tree(value))).collect())
        }
        "text" => Value::String(json.text(99).expect("a text")),
        _ => serde_json::from_slice(json.bytes()).expect("a word or a number"),
    }
}

#[test]
fn random_documents_are_read_as_another_reader_reads_them() {
    let mut random = Random::new(7);
    let mut good = 0;
    for _ in 0..rounds(4000) {
        let mut bytes = document(&mut random, 0).into_bytes();
        if random.below(2) == 0 && !bytes.is_empty() {
            let at = random.below(bytes.len());
            match random.below(3) {
                0 => drop(bytes.remove(at)),
                1 => bytes[at] = b"\"\\{}[],:0a\xff "[random.below(12)],
                _ => bytes.truncate(at),
            }
        }
        let other = serde_json::from_slice::<Value>(&bytes);
        match (Json::strict(&bytes), other) {
            (Ok(json), Ok(value)) => {
                assert_eq!(tree(json), value, "{}", bytes.escape_ascii());
                good += 1;
            }
            (Ok(json), Err(_)) => {
                // Ours checks a text or a number only when the caller asks for it.
                let text = String::from_utf8_lossy(json.bytes());
                assert!(text.contains("\\u") || text.contains('e'), "{text}");
            }
            (Err(_), Ok(value)) => panic!("{} is {value}", bytes.escape_ascii()),
            (Err(_), Err(_)) => {}
        }
        // Reading any of it does no harm.
        if let Ok(json) = Json::outline(&bytes) {
            let _ = (json.fields(["k0", "k1"]), json.text(5), json.beginning(5), json.number(), json.whole());
            let _ = json.items().map(|items| items.filter_map(Result::ok).filter_map(Json::number).count());
        }
    }
    assert!(good > rounds(2000), "{good}");
}
