//! Records whose vector is nearest to a given one, exactly: every vector is compared.
//!
//! `bz_near(body, n, metric, vector)` is the measure of field number `n` against the vector (f32, little endian);
//! NULL where the field holds no vector of that length, or the measure is no number.

use blazedb_core::blazebinary::{FieldNo, get_field};
use blazedb_core::{Filter, Record};
use blazedb_sqlite::rusqlite::functions::{Context, FunctionFlags};
use blazedb_sqlite::rusqlite::{Connection, Result};

use crate::error::{QueryProblem, StoreError};
use crate::query::{clamp, decode, found_sql, id_and_body};
use crate::sql_filter::SqlParam;
use crate::store::Store;

/// How near two vectors are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Metric {
    /// The cosine of the angle between them: 1 for the same direction. The highest is the nearest.
    #[default]
    Cosine,
    /// Their inner product. The highest is the nearest.
    Dot,
    /// Their Euclidean distance. The lowest is the nearest.
    L2,
}

impl Metric {
    const ALL: [Self; 3] = [Self::Cosine, Self::Dot, Self::L2];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::L2 => "l2",
        }
    }

    /// The metric that the word stands for.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.as_str() == word)
    }

    const fn order(self) -> &'static str {
        match self {
            Self::Cosine | Self::Dot => "DESC",
            Self::L2 => "ASC",
        }
    }

    /// The measure of two vectors of one length.
    fn measure(self, pairs: impl Iterator<Item = (f32, f32)>) -> f64 {
        let (mut dot, mut left, mut right, mut square) = (0.0, 0.0, 0.0, 0.0);
        for (a, b) in pairs {
            let (a, b) = (f64::from(a), f64::from(b));
            match self {
                Self::Dot => dot += a * b,
                Self::L2 => square += (a - b) * (a - b),
                Self::Cosine => {
                    dot += a * b;
                    left += a * a;
                    right += b * b;
                }
            }
        }
        match self {
            Self::Dot => dot,
            Self::L2 => square.sqrt(),
            // A vector without a direction is near to nothing: 0/0 is no number.
            Self::Cosine => dot / (left.sqrt() * right.sqrt()),
        }
    }
}

/// Adds the function to a connection.
pub(crate) fn register(db: &Connection) -> Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    db.create_scalar_function("bz_near", 4, flags | FunctionFlags::SQLITE_INNOCUOUS, |ctx| Ok(near(ctx)))
}

fn near(ctx: &Context<'_>) -> Option<f64> {
    let body = ctx.get_raw(0).as_blob().ok()?;
    let field: FieldNo = ctx.get(1).ok()?;
    let metric = *Metric::ALL.get(ctx.get::<usize>(2).ok()?)?;
    let wanted = ctx.get_raw(3).as_blob().ok()?;
    let held = get_field(body, field)?.vector_bytes()?;
    if held.len() != wanted.len() {
        return None;
    }
    let number = |four: &[u8]| four.try_into().map_or(0.0, f32::from_le_bytes);
    let pairs = held.chunks_exact(4).zip(wanted.chunks_exact(4)).map(|(a, b)| (number(a), number(b)));
    let measure = metric.measure(pairs);
    measure.is_finite().then_some(measure)
}

impl Store {
    /// The `limit` records (of those that match) whose vector in `field` is nearest, the nearest first, each with
    /// its measure. Records without a vector of the same length are left out.
    ///
    /// # Errors
    /// [`QueryProblem::Vector`], and if the file can't be read.
    pub fn nearest(
        &self,
        field: &str,
        vector: &[f32],
        metric: Metric,
        filter: Option<&Filter>,
        limit: u64,
    ) -> std::result::Result<Vec<(Record, f64)>, StoreError> {
        if vector.is_empty() || !vector.iter().all(|element| element.is_finite()) {
            return Err(QueryProblem::Vector.into());
        }
        self.read(|db| {
            let names = self.names();
            let Some(no) = names.field_no(field) else { return Ok(Vec::new()) };
            let kind = Metric::ALL.iter().position(|known| *known == metric).unwrap_or_default();
            let (found, rest) = found_sql(&format!("seq, bz_near(body,{no},{kind},?) AS near"), filter, &names);
            let order = metric.order();
            // The bodies are fetched for what is left.
            let sql = format!(
                "SELECT r.id, r.body, f.near FROM (SELECT * FROM ({found}) WHERE near IS NOT NULL
                 ORDER BY near {order}, seq LIMIT {}) f JOIN records r ON r.seq=f.seq ORDER BY f.near {order}, f.seq",
                clamp(limit)
            );
            let vector = vector.iter().flat_map(|element| element.to_le_bytes()).collect();
            let params: Vec<SqlParam> = std::iter::once(SqlParam::Blob(vector)).chain(rest).collect();
            let mut nearest = Vec::new();
            self.each(db, &sql, &params, |row| {
                let (id, body) = id_and_body(row)?;
                nearest.push((decode(id, body, &names, None)?, row.get(2)?));
                Ok(true)
            })?;
            Ok(nearest)
        })
    }
}
