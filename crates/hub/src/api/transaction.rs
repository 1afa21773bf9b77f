//! Edits of several databases that happen together or not at all.

use std::collections::BTreeSet;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use blazedb::{CrossTransaction, Database, FieldEdit, FieldEdits, RecordId, StoreError};
use blazedb_core::json::edits_from_json;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::{ApiCode, ApiError};
use super::records::{only_values, record_id};
use super::{Api, blocking};

/// One edit, as a line: like one of an edit trace, without its time and actor.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EditLine {
    db: String,
    op: Op,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    set: Json,
    #[serde(default)]
    unset: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Insert,
    Upsert,
    Update,
    Delete,
}

struct Edit {
    database: Database,
    op: Op,
    id: RecordId,
    edits: FieldEdits,
}

impl Edit {
    fn read(api: &Api, line: &[u8]) -> Result<Self, ApiError> {
        let line: EditLine = serde_json::from_slice(line)
            .map_err(|error| ApiError::new(ApiCode::Invalid, format!("not an edit: {error}")))?;
        let database = api.database(&line.db)?;
        let id = match (&line.id, line.op) {
            (Some(id), _) => record_id(id)?,
            (None, Op::Insert) => database.store().new_id()?,
            (None, _) => return Err(ApiError::new(ApiCode::Invalid, "the edit names no `id`")),
        };
        let mut edits = if line.set.is_null() { FieldEdits::new() } else { edits_from_json(line.set)? };
        edits.extend(line.unset.into_iter().map(|field| (field, FieldEdit::Unset)));
        if matches!(line.op, Op::Insert | Op::Upsert) {
            only_values(edits.clone())?;
        }
        Ok(Self { database, op: line.op, id, edits })
    }

    fn run(&self, tx: &mut CrossTransaction<'_, '_>) -> Result<(), StoreError> {
        let part = tx.on(&self.database)?;
        let value = |(name, edit): (&String, &FieldEdit)| match edit {
            FieldEdit::Set(value) => Some((name.clone(), value.clone())),
            _ => None,
        };
        let fields = || self.edits.iter().filter_map(value).collect();
        match self.op {
            Op::Insert => part.insert(self.id, &fields()),
            Op::Upsert => part.upsert(self.id, &fields()).map(drop),
            Op::Update => part.update(self.id, &self.edits),
            Op::Delete => part.delete(self.id),
        }
    }
}

/// The ids of the edited records, in the order of the lines.
pub(super) async fn transact(State(api): State<Api>, body: Bytes) -> Result<Response, ApiError> {
    let done = blocking(move || {
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
        let read = |(at, line)| Edit::read(&api, line).map_err(|error| error.at(at));
        let edits: Vec<Edit> = lines.enumerate().map(read).collect::<Result<_, _>>()?;
        let mut seen = BTreeSet::new();
        let named = |edit: &&Edit| seen.insert(edit.database.store().replica());
        let databases: Vec<Database> = edits.iter().filter(named).map(|edit| edit.database.clone()).collect();
        let mut at = 0;
        let run = |tx: &mut CrossTransaction<'_, '_>| {
            edits.iter().enumerate().try_for_each(|(index, edit)| {
                at = index;
                edit.run(tx)
            })
        };
        api.node.topology().transaction(&databases, run).map_err(|error| ApiError::from(error).at(at))?;
        Ok(edits.iter().map(|edit| edit.id.to_string()).collect::<Vec<_>>())
    });
    Ok(axum::Json(json!({ "ids": done.await? })).into_response())
}
