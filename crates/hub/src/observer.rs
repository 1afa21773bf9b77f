//! Watches a node for those who look at it: one look for all of them, and only while somebody looks.
//!
//! A watcher gets the whole graph first and then what changes: states within [`TICK`], figures every [`FIGURES`].
//! Invariants: nothing is said when nothing has changed; a watcher that reads too slowly gets the whole graph again
//! instead of a gap; looking takes at most about a fiftieth of the time, however large the graph is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blazedb::snapshot::{DatabaseView, LinkFigures, LinkView, NodeView, Snapshot};
use serde_json::{Map, Value as Json, json};
use tokio::runtime::Handle;
use tokio::sync::broadcast;

use crate::api::{ApiError, blocking};
use crate::node::Node;

/// How soon a change of state is told.
pub(crate) const TICK: Duration = Duration::from_millis(250);
/// How often figures are told.
const FIGURES: Duration = Duration::from_secs(1);
/// The share of time that may be spent looking: one in so many.
const SHARE: u32 = 50;
/// Between two looks, when rates are asked for and nobody has looked yet.
const GLANCE: Duration = Duration::from_millis(200);
/// Events that a watcher may be behind.
const BEHIND: usize = 16;

/// What a watcher is told: one server-sent event, ready to send.
pub(crate) type Event = Arc<str>;

/// Watches one node.
pub(crate) struct Observer {
    node: Arc<Node>,
    state: Mutex<State>,
}

struct State {
    sampler: Sampler,
    current: Option<Arc<Snapshot>>,
    events: Option<broadcast::Sender<Event>>,
}

impl Observer {
    pub(crate) fn new(node: Arc<Node>) -> Arc<Self> {
        let state = State { sampler: Sampler::default(), current: None, events: None };
        Arc::new(Self { node, state: Mutex::new(state) })
    }

    /// The graph now, with rates.
    pub(crate) async fn now(&self) -> Result<Arc<Snapshot>, ApiError> {
        let watched = {
            let state = self.state();
            state.events.as_ref().and(state.current.clone())
        };
        match watched {
            Some(current) => Ok(current),
            None => {
                let node = Arc::clone(&self.node);
                let glance = move || {
                    let mut sampler = Sampler::default();
                    sampler.look(&node, true);
                    std::thread::sleep(GLANCE);
                    Ok(Arc::new(sampler.look(&node, true)))
                };
                blocking(glance).await
            }
        }
    }

    /// The whole graph as an event, and those that follow.
    pub(crate) async fn watch(self: &Arc<Self>) -> Result<(Event, broadcast::Receiver<Event>), ApiError> {
        let observer = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        blocking(move || Ok(observer.start_watching(&runtime))).await
    }

    fn start_watching(self: Arc<Self>, runtime: &Handle) -> (Event, broadcast::Receiver<Event>) {
        let mut state = self.state();
        let running = state.events.is_some();
        let receiver = match &state.events {
            Some(events) => events.subscribe(),
            None => {
                let (events, receiver) = broadcast::channel(BEHIND);
                state.events = Some(events);
                receiver
            }
        };
        if !running || state.current.is_none() {
            state.sampler = Sampler::default();
            state.current = Some(Arc::new(state.sampler.look(&self.node, true)));
        }
        let first = whole(state.current.as_deref());
        drop(state);
        if !running {
            runtime.spawn(Arc::clone(&self).look_around());
        }
        (first, receiver)
    }

    /// The whole graph as an event, for a watcher that has missed some.
    pub(crate) fn again(&self) -> Event {
        whole(self.state().current.as_deref())
    }

    /// The graph that was told last; `None` while nobody watches.
    pub(crate) fn current(&self) -> Option<Arc<Snapshot>> {
        self.state().current.clone()
    }

    /// Looks as long as anybody watches.
    async fn look_around(self: Arc<Self>) {
        let mut figures_at = Instant::now() + FIGURES;
        let mut pause = TICK;
        loop {
            tokio::time::sleep(pause).await;
            let figures = Instant::now() >= figures_at;
            if figures {
                figures_at = Instant::now() + FIGURES;
            }
            let observer = Arc::clone(&self);
            let looked = tokio::task::spawn_blocking(move || observer.look(figures)).await;
            match looked {
                Ok(Some(took)) => pause = TICK.max(took * SHARE),
                _ => return,
            }
        }
    }

    /// One look. Answers how long it took; `None` once nobody watches.
    fn look(&self, figures: bool) -> Option<Duration> {
        let started = Instant::now();
        let mut state = self.state();
        let events = state.events.clone()?;
        if events.receiver_count() == 0 {
            state.events = None;
            state.current = None;
            return None;
        }
        let snapshot = state.sampler.look(&self.node, figures);
        let change = state.current.as_ref().and_then(|before| difference(before, &snapshot, figures));
        state.current = Some(Arc::new(snapshot));
        if let Some(change) = change {
            // Nobody receives it if the last watcher has gone meanwhile.
            let _ = events.send(event("change", &change));
        }
        Some(started.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn whole(snapshot: Option<&Snapshot>) -> Event {
    event("snapshot", &serde_json::to_value(snapshot).unwrap_or_default())
}

pub(crate) fn event(name: &str, data: &Json) -> Event {
    // JSON of one line: a line end inside a text is escaped.
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// What is different now: states, and figures if they are to be told.
pub(crate) fn difference(before: &Snapshot, now: &Snapshot, with_figures: bool) -> Option<Json> {
    let mut change = Change::default();
    let nodes = (&before.nodes[..], &now.nodes[..]);
    change.compare(nodes, |node| &node.id, NodeView::clone_with, |node| json!(node.figures));
    let databases = (&before.databases[..], &now.databases[..]);
    change.compare(
        databases,
        |database| &database.id,
        DatabaseView::clone_with,
        |database| json!(database.figures),
    );
    let links = (&before.links[..], &now.links[..]);
    change.compare(links, |link| &link.id, LinkView::clone_with, |link| json!(link.figures));
    let Change { set: [nodes, databases, links], gone, figures, .. } = change;
    let figures = if with_figures { figures } else { Map::new() };
    if [&nodes, &databases, &links, &gone].iter().all(|list| list.is_empty()) && figures.is_empty() {
        return None;
    }
    Some(json!({
        "at_ms": now.at_ms, "nodes": nodes, "databases": databases, "links": links, "gone": gone,
        "figures": figures,
    }))
}

/// An item of a snapshot that has a state and figures.
trait Item: Clone + PartialEq + serde::Serialize {
    /// The same with the figures of another.
    fn clone_with(&self, figures: &Self) -> Self;
}

impl Item for NodeView {
    fn clone_with(&self, figures: &Self) -> Self {
        Self { figures: figures.figures, ..self.clone() }
    }
}

impl Item for DatabaseView {
    fn clone_with(&self, figures: &Self) -> Self {
        Self { figures: figures.figures, ..self.clone() }
    }
}

impl Item for LinkView {
    fn clone_with(&self, figures: &Self) -> Self {
        Self { figures: figures.figures, ..self.clone() }
    }
}

#[derive(Default)]
struct Change {
    set: [Vec<Json>; 3],
    kind: usize,
    gone: Vec<Json>,
    figures: Map<String, Json>,
}

impl Change {
    fn compare<T: Item>(
        &mut self,
        (before, now): (&[T], &[T]),
        id: impl Fn(&T) -> &String,
        with: impl Fn(&T, &T) -> T,
        figures: impl Fn(&T) -> Json,
    ) {
        let mut old: BTreeMap<&String, &T> = before.iter().map(|item| (id(item), item)).collect();
        for item in now {
            match old.remove(id(item)) {
                Some(same) if same == item => {}
                Some(known) if with(known, item) == *item => {
                    self.figures.insert(id(item).clone(), figures(item));
                }
                _ => self.set.get_mut(self.kind).into_iter().for_each(|list| list.push(json!(item))),
            }
        }
        self.gone.extend(old.into_keys().map(|id| Json::from(id.clone())));
        self.kind += 1;
    }
}

/// Turns totals into rates, and remembers how many records there are.
#[derive(Default)]
struct Sampler {
    at: Option<Instant>,
    links: BTreeMap<String, LinkFigures>,
    lags: BTreeMap<String, u64>,
    /// Of databases: the end of the feed, and changes a second.
    databases: BTreeMap<String, (u64, f64)>,
    records: BTreeMap<String, Counted>,
}

struct Counted {
    head: u64,
    records: u64,
    /// Not again before this.
    not_before: Instant,
}

impl Sampler {
    /// The graph; with new figures, or with those of the last look.
    fn look(&mut self, node: &Node, figures: bool) -> Snapshot {
        let mut snapshot = node.snapshot();
        if figures {
            self.measure(&snapshot);
        }
        for link in &mut snapshot.links {
            let known = self.links.entry(link.id.clone()).or_insert(link.figures);
            if known.pending.is_some() != link.figures.pending.is_some() {
                // It came or went: what was counted before says nothing of now.
                let LinkFigures { caught_up, pending, lag_ms, .. } = link.figures;
                *known = LinkFigures { caught_up, pending, lag_ms, ..*known };
            }
            link.figures = *known;
            // Changes that flow are caught up with many times a second: that is no news each time.
            let flowing = link.figures.changes_sent_per_s > 0.0 || link.figures.changes_received_per_s > 0.0;
            if link.state == "idle" && flowing {
                link.state = "syncing".to_owned();
            }
        }
        let mut ops: BTreeMap<String, f64> = BTreeMap::new();
        for link in &snapshot.links {
            let other = if link.role == "client" { &link.server } else { &link.client };
            let from = other.rsplit_once('/').map_or("", |(node, _)| node);
            *ops.entry(from.to_owned()).or_default() += link.figures.changes_received_per_s;
        }
        let this = snapshot.this.clone();
        for database in snapshot.databases.iter_mut().filter(|database| database.node == this) {
            let known = self.databases.entry(database.id.clone()).or_insert((database.figures.head, 0.0));
            let (head, ops_per_s) = *known;
            database.figures.head = head;
            database.figures.ops_per_s = ops_per_s;
            database.figures.records = self.count(node, &database.name, figures);
            *ops.entry(this.clone()).or_default() += ops_per_s;
        }
        for node in &mut snapshot.nodes {
            node.figures.ops_per_s = rounded(ops.get(&node.id).copied().unwrap_or_default());
            node.figures.lag_ms = *self.lags.entry(node.id.clone()).or_insert(node.figures.lag_ms);
        }
        snapshot
    }

    fn measure(&mut self, snapshot: &Snapshot) {
        let now = Instant::now();
        let seconds = self.at.replace(now).map_or(0.0, |before| (now - before).as_secs_f64());
        let rate = |before: u64, after: u64| match seconds {
            0.0 => 0.0,
            seconds => rounded(after.saturating_sub(before) as f64 / seconds),
        };
        let mut links = BTreeMap::new();
        for link in &snapshot.links {
            let mut figures = link.figures;
            if let Some(before) = self.links.get(&link.id) {
                figures.bytes_sent_per_s = rate(before.bytes_sent, figures.bytes_sent);
                figures.bytes_received_per_s = rate(before.bytes_received, figures.bytes_received);
                figures.changes_sent_per_s = rate(before.changes_sent, figures.changes_sent);
                figures.changes_received_per_s = rate(before.changes_received, figures.changes_received);
            }
            links.insert(link.id.clone(), figures);
        }
        self.links = links;
        let mut databases = BTreeMap::new();
        for database in snapshot.databases.iter().filter(|database| database.node == snapshot.this) {
            let head = database.figures.head;
            let before = self.databases.get(&database.id).map_or(head, |(head, _)| *head);
            databases.insert(database.id.clone(), (head, rate(before, head)));
        }
        self.databases = databases;
        self.lags = snapshot.nodes.iter().map(|node| (node.id.clone(), node.figures.lag_ms)).collect();
    }

    /// Records of a database, counted again when it has changed, and not too often: counting reads all of it.
    fn count(&mut self, node: &Node, name: &str, again: bool) -> Option<u64> {
        let database = node.database(name)?;
        let (head, started) = (database.store().head(), Instant::now());
        if let Some(known) = self.records.get(name)
            && (!again || known.head == head || started < known.not_before)
        {
            return Some(known.records);
        }
        let records = database.query().count().ok()?;
        let not_before = Instant::now() + started.elapsed() * SHARE * 2;
        self.records.insert(name.to_owned(), Counted { head, records, not_before });
        Some(records)
    }
}

/// To a tenth: what is not worth telling is no change.
fn rounded(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(state: &str, bytes: u64) -> Snapshot {
        let figures = LinkFigures { bytes_sent: bytes, ..LinkFigures::default() };
        let link = LinkView { id: "a/x>b/x".into(), state: state.into(), figures, ..LinkView::default() };
        let node = NodeView { id: "a".into(), name: "</script>\n".into(), ..NodeView::default() };
        Snapshot { nodes: vec![node], links: vec![link], ..Snapshot::default() }
    }

    #[test]
    fn states_are_told_at_once_figures_in_their_turn_and_nothing_when_nothing_changed() {
        let before = snapshot("idle", 1);
        assert_eq!(difference(&before, &before, true), None);
        assert_eq!(difference(&before, &snapshot("idle", 2), false), None);
        let figures = difference(&before, &snapshot("idle", 2), true).unwrap();
        assert_eq!(figures["figures"]["a/x>b/x"]["bytes_sent"], 2);
        assert_eq!(figures["links"], json!([]));
        let state = difference(&before, &snapshot("offline", 1), false).unwrap();
        assert_eq!(state["links"][0]["state"], "offline");
        assert_eq!(state["nodes"], json!([]));
    }

    #[test]
    fn what_is_gone_is_told() {
        let before = snapshot("idle", 1);
        let after = Snapshot { links: Vec::new(), ..before.clone() };
        assert_eq!(difference(&before, &after, false).unwrap()["gone"], json!(["a/x>b/x"]));
    }

    #[test]
    fn an_event_is_one_line_whatever_a_node_is_called() {
        let text = whole(Some(&snapshot("idle", 1)));
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("event: snapshot\ndata: {") && text.ends_with("}\n\n"));
    }
}
