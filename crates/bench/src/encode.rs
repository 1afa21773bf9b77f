//! BlazeBinary beside CBOR, MessagePack, JSON and Protobuf: size, encoding, decoding, one field.
//!
//! The self-describing encodings carry a map of names to values, as BlazeBinary's records are; Protobuf has a
//! schema.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;

use blazedb::Fields;
use blazedb_core::blazebinary::{RecordBuilder, RecordView, get_field};
use prost::Message as _;
use serde_json::{Map, Value as Json};

use crate::error::BenchError;
use crate::protobuf::Bug;
use crate::raw::{as_f64, timed};
use crate::records::{real, to_json};
use crate::report::{Measure, Target};

/// Records of the trace.
const RECORDS: usize = 5_000;
/// Rounds over all of them; the fastest counts, which is the one least disturbed.
const ROUNDS: usize = 7;

type Encoded = Vec<Vec<u8>>;

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let (records, what) = real(RECORDS)?;
    let maps: Vec<Map<String, Json>> = records.iter().map(to_json).collect();
    let names: Vec<String> =
        records.iter().flat_map(Fields::keys).cloned().collect::<BTreeSet<_>>().into_iter().collect();
    let ours = blaze(&records, &names)?;
    let message_pack = each(&maps, "MessagePack", rmp_serde::to_vec)?;
    let cbor = each(&maps, "CBOR", |map| {
        let mut out = Vec::new();
        ciborium::into_writer(map, &mut out).map(|()| out)
    })?;
    let json = each(&maps, "JSON", serde_json::to_vec)?;
    let bugs: Vec<Bug> =
        maps.iter().map(|map| serde_json::from_value(Json::Object(map.clone()))).collect::<Result<_, _>>()?;
    let protobuf: Encoded = bugs.iter().map(Bug::encode_to_vec).collect();

    let size = |name: &str, other: &Encoded, ceiling: f64| {
        let name = format!("encode: size, beside {name} ({what})");
        Measure::beside(name, mean_len(&ours), "B", mean_len(other)).reach(Target::AtMost(ceiling))
    };
    let mut measures = vec![
        size("Protobuf with a schema", &protobuf, 1.0),
        size("CBOR with names", &cbor, 0.8),
        size("MessagePack with names", &message_pack, 0.8),
        size("JSON", &json, 1.0),
    ];
    measures.push(one_field(&ours, &names));
    measures.extend(encoding_speed(&records, &names, &maps, &bugs));
    measures.extend(decoding_speed(&names, &ours, &message_pack, &cbor, &json, &protobuf));
    Ok(measures)
}

fn each<E: std::fmt::Display>(
    maps: &[Map<String, Json>],
    encoding: &'static str,
    encode: impl Fn(&Map<String, Json>) -> Result<Vec<u8>, E>,
) -> Result<Encoded, BenchError> {
    let failed = |error: E| BenchError::Encoding { encoding, problem: error.to_string() };
    maps.iter().map(|map| encode(map).map_err(failed)).collect()
}

fn blaze(records: &[Fields], names: &[String]) -> Result<Encoded, BenchError> {
    let mut builder = RecordBuilder::new();
    let encode = |fields: &Fields| {
        let mut out = Vec::new();
        encode_blaze(&mut builder, names, fields, &mut out).map(|()| out)
    };
    records.iter().map(encode).collect()
}

fn encode_blaze(
    builder: &mut RecordBuilder,
    names: &[String],
    fields: &Fields,
    out: &mut Vec<u8>,
) -> Result<(), BenchError> {
    let failed = |problem: String| BenchError::Encoding { encoding: "BlazeBinary", problem };
    // Both are in order of names, so the names are interned in one pass.
    let mut numbers = (0..).zip(names);
    for (name, value) in fields {
        let (no, _) =
            numbers.find(|(_, known)| *known == name).ok_or_else(|| failed(format!("no {name}")))?;
        builder.push(no, value).map_err(|error| failed(error.to_string()))?;
    }
    builder.finish_into(out);
    Ok(())
}

fn decode_blaze(names: &[String], body: &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    for (no, raw) in RecordView::parse(body).ok()?.iter() {
        let name = names.get(usize::try_from(no).ok()?)?;
        fields.insert(name.clone(), raw.decode().ok()?);
    }
    Some(fields)
}

fn one_field(ours: &Encoded, names: &[String]) -> Measure {
    let wanted: Vec<u32> = ["status", "team", "opened_at"]
        .iter()
        .filter_map(|name| (0..).zip(names).find(|(_, known)| known == name).map(|(no, _)| no))
        .collect();
    let time = fastest(|| {
        for body in ours {
            for no in &wanted {
                black_box(get_field(black_box(body), *no).map(|raw| raw.scalar().is_ok()));
            }
        }
    });
    let value = nanoseconds(time, ours.len() * wanted.len());
    Measure::beside("encode: one field out of a record", value, "ns", 60.0).reach(Target::AtMost(1.0))
}

fn encoding_speed(
    records: &[Fields],
    names: &[String],
    maps: &[Map<String, Json>],
    bugs: &[Bug],
) -> Vec<Measure> {
    let count = records.len();
    let mut builder = RecordBuilder::new();
    let mut out = Vec::new();
    let ours = fastest(|| {
        for fields in records {
            out.clear();
            black_box(encode_blaze(&mut builder, names, fields, &mut out).is_ok());
        }
    });
    let mut buffer = Vec::new();
    let mut time = |encode: &dyn Fn(usize, &mut Vec<u8>)| {
        fastest(|| {
            for at in 0..count {
                buffer.clear();
                encode(at, &mut buffer);
                black_box(&buffer);
            }
        })
    };
    let message_pack = time(&|at, out| drop(maps.get(at).map(|map| rmp_serde::encode::write(out, map))));
    let cbor = time(&|at, out| drop(maps.get(at).map(|map| ciborium::into_writer(map, out))));
    let json = time(&|at, out| drop(maps.get(at).map(|map| serde_json::to_writer(out, map))));
    let protobuf = time(&|at, out| {
        black_box(bugs.get(at).map(|bug| bug.encode(out).is_ok()));
    });
    let structs = time(&|at, out| drop(bugs.get(at).map(|bug| rmp_serde::encode::write_named(out, bug))));
    speeds("encode", count, ours, [message_pack, cbor, json, protobuf, structs])
}

fn decoding_speed(
    names: &[String],
    ours: &Encoded,
    message_pack: &Encoded,
    cbor: &Encoded,
    json: &Encoded,
    protobuf: &Encoded,
) -> Vec<Measure> {
    type Dynamic = std::collections::BTreeMap<String, Json>;
    let time = |encoded: &Encoded, decode: &dyn Fn(&[u8]) -> bool| {
        fastest(|| {
            for bytes in encoded {
                black_box(decode(black_box(bytes)));
            }
        })
    };
    let blaze = time(ours, &|bytes| black_box(decode_blaze(names, bytes)).is_some());
    let times = [
        time(message_pack, &|bytes| black_box(rmp_serde::from_slice::<Dynamic>(bytes)).is_ok()),
        time(cbor, &|bytes| black_box(ciborium::from_reader::<Dynamic, _>(bytes)).is_ok()),
        time(json, &|bytes| black_box(serde_json::from_slice::<Dynamic>(bytes)).is_ok()),
        time(protobuf, &|bytes| black_box(Bug::decode(bytes)).is_ok()),
        time(message_pack, &|bytes| black_box(rmp_serde::from_slice::<Bug>(bytes)).is_ok()),
    ];
    speeds("decode", ours.len(), blaze, times)
}

fn speeds(what: &str, count: usize, ours: Duration, others: [Duration; 5]) -> Vec<Measure> {
    let names =
        ["MessagePack", "CBOR", "JSON", "Protobuf with a schema", "MessagePack of a struct with names"];
    let measure = |(name, other): (&str, Duration)| {
        let name = format!("encode: {what} a record, beside {name}");
        let measure = Measure::beside(name, nanoseconds(ours, count), "ns", nanoseconds(other, count));
        if measure.name.ends_with("beside MessagePack") {
            measure.reach(Target::AtMost(1.0))
        } else {
            measure
        }
    };
    names.into_iter().zip(others).map(measure).collect()
}

fn fastest(mut work: impl FnMut()) -> Duration {
    (0..ROUNDS).map(|_| timed(&mut work).0).min().unwrap_or_default()
}

fn nanoseconds(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e9 / as_f64(count as u64)
}

fn mean_len(encoded: &Encoded) -> f64 {
    as_f64(encoded.iter().map(|bytes| bytes.len() as u64).sum()) / as_f64(encoded.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_timed_gives_the_records_back() {
        let (records, _) = real(50).unwrap();
        let names: Vec<String> =
            records.iter().flat_map(Fields::keys).cloned().collect::<BTreeSet<_>>().into_iter().collect();
        let encoded = blaze(&records, &names).unwrap();
        for (fields, body) in records.iter().zip(&encoded) {
            assert_eq!(decode_blaze(&names, body).as_ref(), Some(fields));
            let bug: Bug = serde_json::from_value(Json::Object(to_json(fields))).unwrap();
            let back = serde_json::to_value(Bug::decode(bug.encode_to_vec().as_slice()).unwrap()).unwrap();
            for (name, value) in to_json(fields) {
                assert_eq!(back[&name], value, "{name}");
            }
        }
    }
}
