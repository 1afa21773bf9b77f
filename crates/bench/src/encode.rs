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
use crate::raw::as_f64;
use crate::records::{real, to_json};
use crate::report::{Measure, Target};
use crate::usage::thread_cpu;

/// Records of the trace.
const RECORDS: usize = 5_000;
/// Rounds; of each turn the fastest counts, which is the one least disturbed.
const ROUNDS: usize = 9;
/// Records that a contender takes before the next one has its turn.
const TURN: usize = 100;
/// BlazeBinary and those beside it.
const CONTENDERS: usize = 6;

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

/// The records as BlazeBinary; the number of a field is its place among `names`, which are in order.
pub(crate) fn blaze(records: &[Fields], names: &[String]) -> Result<Encoded, BenchError> {
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
    RecordView::parse(body).ok()?.decode(|no| names.get(no as usize).map(String::as_str)).ok()
}

fn one_field(ours: &Encoded, names: &[String]) -> Measure {
    let wanted: Vec<u32> = ["status", "team", "opened_at"]
        .iter()
        .filter_map(|name| (0..).zip(names).find(|(_, known)| known == name).map(|(no, _)| no))
        .collect();
    let look = |bodies: &[Vec<u8>]| {
        for body in bodies {
            for no in &wanted {
                black_box(get_field(black_box(body), *no).map(|raw| raw.scalar().is_ok()));
            }
        }
    };
    let turn = |bodies| {
        let rounds = (0..ROUNDS).map(|_| {
            let before = thread_cpu();
            look(bodies);
            thread_cpu() - before
        });
        rounds.min().unwrap_or_default()
    };
    let time = ours.chunks(TURN).map(turn).sum();
    let value = nanoseconds(time, ours.len() * wanted.len());
    Measure::beside("encode: one field out of a record", value, "ns", 60.0).reach(Target::AtMost(1.0))
}

fn encoding_speed(
    records: &[Fields],
    names: &[String],
    maps: &[Map<String, Json>],
    bugs: &[Bug],
) -> Vec<Measure> {
    let mut builder = RecordBuilder::new();
    let mut outs: [Vec<u8>; CONTENDERS] = Default::default();
    let [a, b, c, d, e, f] = &mut outs;
    let times = in_turns(
        records.len(),
        [
            &mut |at| {
                a.clear();
                let encoded = records.get(at).map(|fields| encode_blaze(&mut builder, names, fields, a));
                black_box(encoded.is_some_and(|done| done.is_ok()));
            },
            &mut |at| {
                b.clear();
                black_box(maps.get(at).map(|map| rmp_serde::encode::write(b, map).is_ok()));
            },
            &mut |at| {
                c.clear();
                black_box(maps.get(at).map(|map| ciborium::into_writer(map, &mut *c).is_ok()));
            },
            &mut |at| {
                d.clear();
                black_box(maps.get(at).map(|map| serde_json::to_writer(&mut *d, map).is_ok()));
            },
            &mut |at| {
                e.clear();
                black_box(bugs.get(at).map(|bug| bug.encode(e).is_ok()));
            },
            &mut |at| {
                f.clear();
                black_box(bugs.get(at).map(|bug| rmp_serde::encode::write_named(f, bug).is_ok()));
            },
        ],
    );
    black_box(&outs);
    speeds("encode", records.len(), times)
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
    fn decode<T>(encoded: &Encoded, at: usize, decode: impl Fn(&[u8]) -> Option<T>) {
        black_box(encoded.get(at).and_then(|bytes| decode(black_box(bytes))));
    }
    let times = in_turns(
        ours.len(),
        [
            &mut |at| decode(ours, at, |bytes| decode_blaze(names, bytes)),
            &mut |at| decode(message_pack, at, |bytes| rmp_serde::from_slice::<Dynamic>(bytes).ok()),
            &mut |at| decode(cbor, at, |bytes| ciborium::from_reader::<Dynamic, _>(bytes).ok()),
            &mut |at| decode(json, at, |bytes| serde_json::from_slice::<Dynamic>(bytes).ok()),
            &mut |at| decode(protobuf, at, |bytes| Bug::decode(bytes).ok()),
            &mut |at| decode(message_pack, at, |bytes| rmp_serde::from_slice::<Bug>(bytes).ok()),
        ],
    );
    speeds("decode", ours.len(), times)
}

fn speeds(what: &str, count: usize, [ours, others @ ..]: [Duration; CONTENDERS]) -> Vec<Measure> {
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

/// Processor time that each contender takes for `count` records. They take turns of a few records, so that what
/// disturbs the machine disturbs all of them; of each turn the fastest of all rounds counts.
fn in_turns(count: usize, mut contenders: [&mut dyn FnMut(usize); CONTENDERS]) -> [Duration; CONTENDERS] {
    let mut total = [Duration::ZERO; CONTENDERS];
    for start in (0..count).step_by(TURN) {
        let mut fastest = [Duration::MAX; CONTENDERS];
        for _ in 0..ROUNDS {
            for (work, fastest) in contenders.iter_mut().zip(&mut fastest) {
                let before = thread_cpu();
                (start..count.min(start + TURN)).for_each(&mut *work);
                *fastest = (thread_cpu() - before).min(*fastest);
            }
        }
        total.iter_mut().zip(fastest).for_each(|(total, fastest)| *total += fastest);
    }
    total
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
