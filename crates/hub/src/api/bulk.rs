//! Many records in one transaction: a chunk of an import or of an edit trace.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::IntoResponse as _;
use axum::response::Response;
use blazedb::{Hlc, RecordId, ReplicaId, Stamp, TraceRanks, TracedEdit, TracedOp};
use blazedb_core::json::edits_from_json;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::error::{ApiCode, ApiError};
use super::records::{new_record, only_values};
use super::{Api, blocking};

/// Milliseconds that a hybrid logical time has room for.
const MAX_MILLIS: u64 = (1 << 48) - 1;

pub(super) async fn import(
    State(api): State<Api>,
    Path(db): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let done = blocking(move || {
        let records = each_line(&body, |line| new_record(parse(line)?))?;
        let mut at = 0;
        let inserted = database.transaction(|tx| {
            for (id, fields) in &records {
                let id = id.map_or_else(|| database.store().new_id(), Ok)?;
                tx.insert(id, fields)?;
                at += 1;
            }
            Ok(())
        });
        inserted.map_err(|error| ApiError::from(error).at(at))?;
        Ok(records.len())
    });
    Ok(axum::Json(json!({ "inserted": done.await? })).into_response())
}

pub(super) async fn replay(
    State(api): State<Api>,
    Path(db): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let database = api.database(&db)?;
    let done = blocking(move || {
        let mut edits = each_line(&body, traced)?;
        let mut at = 0;
        let applied = database.transaction(|tx| {
            let mut ranks = TraceRanks::default();
            for Traced { edit, source, least } in &mut edits {
                let (writer, ms) = (edit.stamp.writer, edit.stamp.time.millis());
                let rank = ranks.rank(tx, writer, ms, source.as_bytes(), *least)?;
                edit.stamp = Stamp::new(Hlc::new(ms, rank), writer);
                tx.apply_traced(edit)?;
                at += 1;
            }
            ranks.save(tx)
        });
        applied.map_err(|error| ApiError::from(error).at(at))?;
        Ok(edits.len())
    });
    Ok(axum::Json(json!({ "applied": done.await? })).into_response())
}

fn each_line<T>(body: &[u8], read: impl Fn(&[u8]) -> Result<T, ApiError>) -> Result<Vec<T>, ApiError> {
    let filled = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    filled.enumerate().map(|(index, line)| read(line).map_err(|error| error.at(index))).collect()
}

fn parse<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(line).map_err(|error| {
        // Every line is line 1 of itself: only the column says anything.
        let text = error.to_string().replace(" at line 1 column ", " at column ");
        ApiError::new(ApiCode::Invalid, format!("not valid JSON: {text}"))
    })
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
enum Op {
    Insert,
    Update,
    Delete,
}

#[derive(Deserialize)]
struct TraceLine {
    at: u64,
    actor: String,
    op: Op,
    id: String,
    #[serde(default)]
    set: Map<String, Json>,
}

/// An edit whose rank is yet to be found.
struct Traced {
    edit: TracedEdit,
    /// What tells it from others of its actor and time.
    source: String,
    /// How many of its actor and time came before it where it was read.
    least: u16,
}

/// A line is `[least, edit]`.
fn traced(line: &[u8]) -> Result<Traced, ApiError> {
    let (least, edit): (u16, TraceLine) = parse(line)?;
    let source = format!("{:?} {} {}", edit.op, edit.id, Json::from(edit.set.clone()));
    let invalid = |message| ApiError::new(ApiCode::Invalid, message);
    if edit.at > MAX_MILLIS {
        return Err(invalid(format!("at: {} is no time in milliseconds", edit.at)));
    }
    let id: RecordId = edit.id.parse().map_err(|error| invalid(format!("id {:?}: {error}", edit.id)))?;
    let fields = only_values(edits_from_json(Json::Object(edit.set))?)?;
    let op = match edit.op {
        Op::Insert => TracedOp::Insert(fields),
        Op::Update => TracedOp::Update(fields),
        Op::Delete if fields.is_empty() => TracedOp::Delete,
        Op::Delete => return Err(invalid("a delete sets no fields".to_owned())),
    };
    let edit = TracedEdit { id, stamp: Stamp::new(Hlc::new(edit.at, 0), writer_of(&edit.actor)), op };
    Ok(Traced { edit, source, least })
}

/// The replica that stands for an actor of a trace: the same on every device.
fn writer_of(actor: &str) -> ReplicaId {
    let input = [b"blazedb actor\0", actor.as_bytes()].concat();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &input);
    let bytes = hash.as_ref().first_chunk::<16>().copied().unwrap_or_default();
    ReplicaId(uuid::Builder::from_custom_bytes(bytes).into_uuid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_is_the_same_replica_everywhere_and_no_other() {
        assert_eq!(writer_of("21"), writer_of("21"));
        assert_ne!(writer_of("21"), writer_of("22"));
        assert_eq!(writer_of("21").0.get_version_num(), 8);
    }

    #[test]
    fn a_line_of_a_trace_becomes_a_stamped_edit() {
        let id = "8fec61dc-3997-5fec-a310-de36eb18ec70";
        let line =
            |edit: &str| format!("[3,{{\"at\":7,\"actor\":\"21\",\"db\":\"bugs\",\"id\":\"{id}\",{edit}}}]");
        let Traced { edit, least, .. } =
            traced(line(r#""op":"update","set":{"status":"New"}"#).as_bytes()).unwrap();
        assert_eq!((edit.id.to_string().as_str(), edit.stamp.time, least), (id, Hlc::new(7, 0), 3));
        assert!(traced(line(r#""op":"delete","set":{}"#).as_bytes()).is_ok());
        for wrong in [r#""op":"upsert""#, r#""op":"delete","set":{"a":1}"#, r#""op":"update","set":{"id":1}"#]
        {
            assert_eq!(traced(line(wrong).as_bytes()).err().unwrap().code, ApiCode::Invalid, "{wrong}");
        }
    }

    #[test]
    fn an_error_names_the_line_of_the_chunk_and_blank_ones_do_not_count() {
        let error = each_line(b"{}\n\n{}\nnope\n", |line| parse::<Json>(line)).unwrap_err();
        assert_eq!(error.index, Some(2));
        assert!(error.message.contains("column"), "{error}");
    }
}
