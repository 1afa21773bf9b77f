//! What a user sees of a node: the part of the API that only reads, cut by the access rules.
//!
//! Invariants: who has logged in as a user reaches the routes of this file and no others; each asks the rules for that
//! user anew, and shows a database only if it is served, may be connected to and gives to clients; a record that may not
//! be read is as one that is not there, in counts too; links and nodes are shown to the user whose token they came with.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json as Answer, Router};
use blazedb::snapshot::{DatabaseFigures, NodeFigures, Snapshot};
use blazedb::{Database, Direction, Filter, RecordId, Timestamp, User};
use blazedb_core::filter::EvalContext;
use blazedb_core::topology::grant;
use futures_util::stream;
use serde_json::{Value as Json, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::care::conflict_json;
use super::error::{ApiCode, ApiError};
use super::inspect::{Asked, ExplainParameters, RECENT, count_sealed, explain_record, recent_json, ways_to};
use super::records::{Find, FindParameters, Parameters, find, form, one, parameters, record_id};
use super::status::health;
use super::stream::{Audience, Form, records_for};
use super::topology::{HEARTBEAT, bytes, stream_of_events};
use super::{Api, blocking, from_body};
use crate::auth::{Authenticator, TokenRefusal, now_s};
use crate::node::Node;
use crate::observer::{Event, difference, event, whole};

/// How often it is asked whether a watcher's token is still good.
const STILL_GOOD: Duration = Duration::from_secs(1);
/// The share of time that may be spent counting what a watcher may read: one in so many.
const SHARE: u32 = 100;

/// A user who asks, and the token that said so.
#[derive(Clone)]
pub(super) struct Reader {
    user: Arc<User>,
    expires: u64,
    token: Arc<str>,
    auth: Arc<Authenticator>,
}

impl Reader {
    /// The user whose token this is. Looks at files.
    pub(super) fn new(auth: &Arc<Authenticator>, token: &str) -> Result<Self, TokenRefusal> {
        let verified = auth.authenticate_user(token, now_s())?;
        let (user, expires, token) = (verified.user, verified.expires, token.into());
        Ok(Self { user, expires, token, auth: Arc::clone(auth) })
    }

    /// When the token is over, in seconds since the Unix epoch.
    pub(super) const fn expires(&self) -> u64 {
        self.expires
    }

    async fn is_still_good(&self) -> bool {
        let reader = self.clone();
        let ask = move || Self::new(&reader.auth, &reader.token).is_ok_and(|now| now.user == reader.user);
        tokio::task::spawn_blocking(ask).await.unwrap_or(false)
    }
}

/// The routes of users.
pub(super) fn routes(api: Api) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/v1/whoami", get(whoami))
        .route("/v1/topology", get(topology))
        .route("/v1/topology/events", get(events))
        .route("/v1/databases", get(databases))
        .route("/v1/databases/{db}", get(database))
        .route("/v1/databases/{db}/records", get(list))
        .route("/v1/databases/{db}/query", post(query))
        .route("/v1/databases/{db}/sealed", post(sealed))
        .route("/v1/databases/{db}/records/{id}", get(read))
        .route("/v1/databases/{db}/records/{id}/explain", get(explain))
        .route("/v1/databases/{db}/conflicts", get(conflicts))
        .method_not_allowed_fallback(async || not_for_users())
        .fallback(async || not_for_users())
        .layer(axum::middleware::map_response(super::error::in_json))
        .with_state(api)
}

fn not_for_users() -> ApiError {
    ApiError::new(ApiCode::Forbidden, "that is not for users: this token shows what its user may read")
        .with_hint(
            "writes go through a database of your own that syncs; everything else needs the admin token",
        )
}

async fn whoami(Extension(reader): Extension<Reader>) -> Response {
    let User { id, teams, roles, .. } = &*reader.user;
    let user = json!({ "id": id, "teams": teams, "roles": roles });
    Answer(json!({ "kind": "user", "user": user, "expires_s": reader.expires })).into_response()
}

/// A database as far as a user may read it.
struct Readable {
    database: Database,
    /// `None`: everything.
    granted: Option<Filter>,
}

impl Readable {
    /// `None` if the user may read nothing of it.
    fn of(node: &Node, user: &User, name: &str) -> Option<Self> {
        let served = node.listener()?.served(name)?;
        if !grant(served.serve, Direction { push: false, pull: true }).direction.pull {
            return None;
        }
        let rights = served.access.for_user(Some(user));
        let now = Timestamp::from_millis(served.database.store().now_ms());
        let granted = (!rights.is_public()).then(|| rights.read().for_records(now));
        rights.may_connect(now).then_some(Self { database: served.database, granted })
    }

    fn named(api: &Api, reader: &Reader, name: &str) -> Result<Self, ApiError> {
        Self::of(&api.node, &reader.user, name).ok_or_else(|| {
            ApiError::new(ApiCode::NotFound, format!("no database {name:?} on this node that you may read"))
        })
    }

    fn count(&self) -> Result<u64, ApiError> {
        let query = self.database.query();
        Ok(match &self.granted {
            Some(granted) => query.filter(granted.clone()).count()?,
            None => query.count()?,
        })
    }

    /// The record, if the user may read it.
    fn get(&self, id: RecordId) -> Result<Option<blazedb::Record>, ApiError> {
        let shows = |record: &blazedb::Record| {
            let context = EvalContext::new(record, Timestamp(0));
            self.granted.as_ref().is_none_or(|granted| granted.matches(&context))
        };
        Ok(self.database.get(id)?.filter(shows))
    }

    /// The conflicts about records that the user may read.
    fn conflicts(&self) -> Result<Vec<Json>, ApiError> {
        let mut seen: BTreeMap<RecordId, bool> = BTreeMap::new();
        let mut told = Vec::new();
        for conflict in self.database.conflicts()? {
            let shown = match seen.get(&conflict.id) {
                Some(shown) => *shown,
                None => {
                    let shown = self.get(conflict.id)?.is_some();
                    seen.insert(conflict.id, shown);
                    shown
                }
            };
            if shown {
                told.push(conflict_json(&conflict));
            }
        }
        Ok(told)
    }
}

/// Every database that the user may read, by name.
fn readable(node: &Node, user: &User) -> BTreeMap<String, Readable> {
    let all = node.databases().into_iter();
    all.filter_map(|(name, _)| Some((name.clone(), Readable::of(node, user, &name)?))).collect()
}

async fn databases(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
) -> Result<Response, ApiError> {
    let described = blocking(move || {
        let all = readable(&api.node, &reader.user).into_iter();
        all.map(|(name, readable)| Ok(json!({ "name": name, "state": "open", "records": readable.count()? })))
            .collect::<Result<Vec<Json>, ApiError>>()
    });
    Ok(Answer(json!({ "databases": described.await? })).into_response())
}

async fn database(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
    Path(db): Path<String>,
) -> Result<Response, ApiError> {
    let readable = Readable::named(&api, &reader, &db)?;
    let described = blocking(move || {
        let mut recent = Vec::new();
        for change in readable.database.store().recent(RECENT)? {
            if readable.get(change.id)?.is_some() {
                recent.push(recent_json(&change));
            }
        }
        let granted = readable.granted.as_ref().map(ToString::to_string);
        Ok(json!({
            "name": db, "replica": readable.database.store().replica().to_string(),
            "records": readable.count()?, "conflicts": readable.conflicts()?.len(),
            "granted": granted, "recent": recent,
        }))
    });
    Ok(Answer(described.await?).into_response())
}

async fn list(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
    Path(db): Path<String>,
    found: Parameters<FindParameters>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Readable { database, granted } = Readable::named(&api, &reader, &db)?;
    find(database, Find::from(parameters(found)?).granted(granted), form(&headers)).await
}

async fn query(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
    Path(db): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let Readable { database, granted } = Readable::named(&api, &reader, &db)?;
    let wanted: Find = if body.is_empty() { Find::default() } else { from_body(&body)? };
    find(database, wanted.granted(granted), form(&headers)).await
}

async fn sealed(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
    Path(db): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let readable = Readable::named(&api, &reader, &db)?;
    let mut ids = from_body::<Asked>(&body)?.ids()?;
    let counted = blocking(move || {
        let mut shown = BTreeSet::new();
        for id in &ids {
            if readable.get(*id)?.is_some() {
                shown.insert(*id);
            }
        }
        ids.retain(|id| shown.contains(id));
        count_sealed(&readable.database, &ids)
    });
    Ok(Answer(json!({ "sealed": counted.await? })).into_response())
}

async fn read(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
    Path((db, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (readable, id) = (Readable::named(&api, &reader, &db)?, record_id(&id)?);
    let record = blocking(move || readable.get(id)).await?;
    record.map(|record| one(&record)).ok_or_else(|| ApiError::no_record(&db, id))
}

/// Why a record that the user may read is here, and whether it is on the user's own nodes.
async fn explain(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
    Path((db, id)): Path<(String, String)>,
    options: Parameters<ExplainParameters>,
) -> Result<Response, ApiError> {
    let (readable, id) = (Readable::named(&api, &reader, &db)?, record_id(&id)?);
    let ExplainParameters { peer } = parameters(options)?;
    let explained = blocking(move || {
        if readable.get(id)?.is_none() {
            return Err(ApiError::no_record(&db, id));
        }
        let mut ways = api.node.ways(&db);
        ways.retain(|way| way.view.user.as_deref() == Some(reader.user.id.as_str()));
        let ways = ways_to(ways, &db, peer.as_deref())?;
        let mut told = explain_record(&api.node, &readable.database, &db, id, &ways)?;
        if let Some(told) = told.as_object_mut() {
            // Where else this node sends it, and what it has done before, is not the user's business.
            told.insert("leaving".to_owned(), json!([]));
            told.insert("seq".to_owned(), Json::Null);
        }
        Ok(told)
    });
    Ok(Answer(explained.await?).into_response())
}

async fn conflicts(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
    Path(db): Path<String>,
) -> Result<Response, ApiError> {
    let readable = Readable::named(&api, &reader, &db)?;
    records_for(Audience::User, Form::Lines, move |sink| {
        for conflict in readable.conflicts()? {
            if !sink.push(|out| out.push_str(&conflict.to_string())) {
                break;
            }
        }
        Ok(())
    })
    .await
}

/// How many records a user may read, by database: counted again when there are changes, and not too often.
#[derive(Default)]
struct Counts(BTreeMap<String, Counted>);

struct Counted {
    head: u64,
    records: Option<u64>,
    not_before: Instant,
}

impl Counts {
    fn of(&mut self, name: &str, readable: &Readable) -> Option<u64> {
        let (head, started) = (readable.database.store().head(), Instant::now());
        if let Some(known) = self.0.get(name)
            && (known.head == head || started < known.not_before)
        {
            return known.records;
        }
        let records = readable.count().ok();
        let not_before = Instant::now() + started.elapsed() * SHARE;
        self.0.insert(name.to_owned(), Counted { head, records, not_before });
        records
    }

    /// The graph as the user may see it.
    fn cut(&mut self, node: &Node, user: &User, whole: &Snapshot) -> Snapshot {
        let readable = readable(node, user);
        let links = whole.links.iter();
        let own =
            links.filter(|link| link.role == "server" && link.user.as_deref() == Some(user.id.as_str()));
        let links: Vec<_> = own.cloned().collect();
        let ends: BTreeSet<&str> = links.iter().flat_map(|link| [&*link.client, &*link.server]).collect();
        let peers: BTreeSet<&str> =
            ends.iter().filter_map(|id| id.rsplit_once('/')).map(|(node, _)| node).collect();
        let mut nodes: Vec<_> =
            whole.nodes.iter().filter(|node| peers.contains(&*node.id)).cloned().collect();
        if let Some(this) = whole.nodes.iter().find(|node| node.id == whole.this) {
            nodes.retain(|node| node.id != whole.this);
            // What others do here is in its figures.
            nodes.push(blazedb::snapshot::NodeView { figures: NodeFigures::default(), ..this.clone() });
        }
        let mut databases = Vec::new();
        for database in &whole.databases {
            let mut database = database.clone();
            let granted = readable.get(&database.name).filter(|_| database.node == whole.this);
            if database.node == whole.this {
                let records = granted.and_then(|granted| self.of(&database.name, granted));
                database.figures = DatabaseFigures { records, ..DatabaseFigures::default() };
            }
            if granted.is_some() || ends.contains(&*database.id) {
                databases.push(database);
            }
        }
        Snapshot { at_ms: whole.at_ms, this: whole.this.clone(), nodes, databases, links }
    }
}

async fn topology(
    State(api): State<Api>,
    Extension(reader): Extension<Reader>,
) -> Result<Response, ApiError> {
    let now = api.observer.now().await?;
    let cut = blocking(move || Ok(Counts::default().cut(&api.node, &reader.user, &now))).await?;
    Ok(Answer(cut).into_response())
}

/// One user who watches.
struct Watcher {
    api: Api,
    reader: Reader,
    receiver: Receiver<Event>,
    counts: Counts,
    told: Option<Snapshot>,
    quiet: Duration,
}

/// The graph as the user may see it, then what changes of it; it ends when the token does.
async fn events(State(api): State<Api>, Extension(reader): Extension<Reader>) -> Result<Response, ApiError> {
    let (_, receiver) = api.observer.watch().await?;
    let (counts, quiet) = (Counts::default(), Duration::ZERO);
    let watcher = Watcher { api, reader, receiver, counts, told: None, quiet };
    let told = stream::unfold(watcher, |mut watcher| async move {
        let text = watcher.next().await?;
        Some((Ok::<_, Infallible>(text), watcher))
    });
    Ok(stream_of_events(Body::from_stream(told)))
}

impl Watcher {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.told.is_some() {
                match tokio::time::timeout(STILL_GOOD, self.receiver.recv()).await {
                    Ok(Err(RecvError::Closed)) => return None,
                    Ok(_) => {}
                    Err(_) => self.quiet += STILL_GOOD,
                }
            }
            if !self.reader.is_still_good().await {
                return None;
            }
            if let Some(event) = self.look().await? {
                self.quiet = Duration::ZERO;
                return Some(bytes(&event));
            }
            if self.quiet >= HEARTBEAT {
                self.quiet = Duration::ZERO;
                return Some(Bytes::from_static(b":\n\n"));
            }
        }
    }

    /// What is new since the last look; `None` inside if nothing is.
    async fn look(&mut self) -> Option<Option<Event>> {
        let whole_graph = self.api.observer.current()?;
        let (node, user) = (Arc::clone(&self.api.node), Arc::clone(&self.reader.user));
        let mut counts = std::mem::take(&mut self.counts);
        let cut = tokio::task::spawn_blocking(move || {
            let cut = counts.cut(&node, &user, &whole_graph);
            (cut, counts)
        });
        let (now, counts) = cut.await.ok()?;
        self.counts = counts;
        let news = match &self.told {
            None => Some(whole(Some(&now))),
            Some(before) => difference(before, &now, true).map(|change| event("change", &change)),
        };
        self.told = Some(now);
        Some(news)
    }
}
