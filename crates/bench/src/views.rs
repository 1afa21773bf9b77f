//! Many subscribers with filters of their own: what it costs to find those that a change concerns.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use blazedb::{Database, RecordId, ReplicaId, Timestamp, View, ViewRequest, ViewWatch, record};
use tokio::runtime::Runtime;

use crate::error::BenchError;
use crate::node;
use crate::raw::{as_f64, timed};
use crate::report::{Measure, Target, middle};

/// Views of the small and of the large database.
const FEW: u64 = 100;
const MANY: u64 = 10_000;
/// Changes of each, taking turns.
const CHANGES: u64 = 400;
/// How often all of the views are asked.
const ASKED: u64 = 20;
/// A change that takes longer to be told has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run() -> Result<Vec<Measure>, BenchError> {
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let few = Crowd::gather(dir.path(), FEW, &runtime)?;
    let many = Crowd::gather(dir.path(), MANY, &runtime)?;
    let (mut told, mut asked) = (Vec::new(), Vec::new());
    for turn in 0..CHANGES {
        // Whoever goes first after a pause waits longer for a processor.
        let times = if turn % 2 == 0 {
            let time = few.change(turn, &runtime)?;
            (time, many.change(turn, &runtime)?)
        } else {
            let time = many.change(turn, &runtime)?;
            (few.change(turn, &runtime)?, time)
        };
        told.push(times);
    }
    (0..ASKED).for_each(|turn| asked.push(many.ask_all(turn)));
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    let median = |times: Vec<Duration>| middle(times, Duration::as_secs_f64).map_or(0.0, us);
    let (few, many): (Vec<_>, Vec<_>) = told.into_iter().unzip();
    let many = median(many);
    Ok(vec![
        Measure::beside(
            "views: an insert, and the one woken that it concerns among 10,000, beside 100",
            many,
            "us",
            median(few),
        )
        .reach(Target::AtMost(2.0)),
        Measure::beside("views: the same, beside asking each of 10,000 views", many, "us", median(asked))
            .reach(Target::AtMost(0.5)),
    ])
}

/// A database and those who look at it, each at what is assigned to one person.
struct Crowd {
    database: Database,
    views: Vec<(Arc<View>, tokio::sync::Mutex<ViewWatch>)>,
}

impl Crowd {
    fn gather(dir: &Path, count: u64, runtime: &Runtime) -> Result<Self, BenchError> {
        let database = node::open(dir, &format!("views{count}"), false, false)?;
        let _inside = runtime.enter();
        let mut views = Vec::new();
        for n in 0..count {
            let filter = format!("status == \"open\" && assignee == \"u{n}\" && priority > 3");
            let request = ViewRequest { filter: Some(filter), excluded: Vec::new() };
            let view = request.view(None, Timestamp(0)).map_err(|_| BenchError::Disagree("filter"))?;
            if n == 0 {
                // From the first restricted view on, the database keeps former states.
                database.store().show("bench", ReplicaId::from_bytes([1; 16]), &view, false, false)?;
            }
            let watch = database.watch_view(&view);
            views.push((Arc::new(view), tokio::sync::Mutex::new(watch)));
        }
        let crowd = Self { database, views };
        // Everybody is woken once at the start.
        for (_, watch) in &crowd.views {
            runtime.block_on(async { watch.lock().await.changed().await });
        }
        Ok(crowd)
    }

    fn id(turn: u64) -> RecordId {
        RecordId::v7(1_700_000_000_000 + turn, [7; 10])
    }

    fn fields(&self, turn: u64) -> blazedb::Fields {
        let person = turn % self.views.len() as u64;
        record! {
            "status" => "open", "assignee" => format!("u{person}"), "priority" => 8,
            "title" => format!("crash number {turn}"),
        }
    }

    /// How long it takes to insert a record and wake the one that it concerns.
    fn change(&self, turn: u64, runtime: &Runtime) -> Result<Duration, BenchError> {
        let at = usize::try_from(turn % self.views.len() as u64).unwrap_or_default();
        let Some((_, watch)) = self.views.get(at) else { return Err(BenchError::NodeGone) };
        let (time, woken) = timed(|| {
            self.database.insert_with_id(Self::id(turn), self.fields(turn))?;
            let head = self.database.store().head();
            runtime.block_on(async {
                let mut watch = watch.lock().await;
                let woken = async { while watch.changed().await < head {} };
                let missing = BenchError::Missing { found: 0, expected: 1, waited: PATIENCE };
                tokio::time::timeout(PATIENCE, woken).await.map_err(|_| missing)
            })
        });
        woken.map(|()| time)
    }

    /// How long it takes to ask each view about the record.
    fn ask_all(&self, turn: u64) -> Duration {
        let mut record = blazedb::Record::new(Self::id(turn));
        record.fields = self.fields(turn);
        let (time, found) = timed(|| self.views.iter().filter(|(view, _)| view.matches(&record)).count());
        std::hint::black_box(as_f64(found as u64));
        time
    }
}
