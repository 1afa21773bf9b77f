//! From what is wanted and what is there to what is to be done.
//!
//! [`plan`] is pure: it compares a specification with what a node runs and lists [`Action`]s, in an order in which they
//! can be carried out. Invariants: carrying all of them out gives what was wanted; what is wanted and there already is
//! in none of them, so that nothing is touched that did not change; two links are the same if they lead from the same
//! database to the same one at the same place, whatever pattern asks for them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::error::Contradiction;
use super::expand::{LinkSpec, expand, seekers};
use super::name::DatabaseName;
use super::serve::ServeMode;
use super::spec::{
    AccessSpec, AuthSpec, DatabaseSpec, Durability, NodeSpec, PasswordSource, Resolver, SyncSpec,
    TopologySpec,
};

/// What a node runs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Actual {
    /// The process. None of it changes while the node runs.
    pub node: NodeSpec,
    /// Who may connect. None of it changes while the node runs.
    pub auth: AuthSpec,
    /// Its open databases.
    pub databases: BTreeMap<DatabaseName, ActualDatabase>,
}

/// An open database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ActualDatabase {
    /// How its file was opened.
    pub file: FileSpec,
    /// Fields with an index.
    pub indexes: Vec<String>,
    /// How it is served.
    pub serve: ServeMode,
    /// Who may do what.
    pub access: AccessSpec,
    /// What this node does as the authority of those that connect, if it is that.
    pub decides: Option<Resolver>,
    /// Its links, in the order of their names.
    pub links: Vec<LinkSpec>,
    /// Its meshes that look for peers.
    pub seeks: Vec<SyncSpec>,
}

/// What a database has to be opened anew for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileSpec {
    /// The file, relative to the node's data.
    pub file: PathBuf,
    /// Its password.
    pub password: PasswordSource,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// How long what a reader needs is kept for it while it is away.
    pub tombstone_lease: Duration,
    /// Fields in the full-text index.
    pub search: Vec<String>,
}

/// Something to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// End a link; an open session says goodbye.
    CloseLink {
        /// Of this database.
        database: DatabaseName,
        /// The link as it is.
        link: LinkSpec,
    },
    /// Close a database, which has no links any more; whoever is connected to it has to go.
    CloseDatabase(DatabaseName),
    /// Open a database, unserved and without links.
    OpenDatabase(DatabaseName, FileSpec),
    /// Give a database these indexes.
    Index(DatabaseName, Vec<String>),
    /// Serve a database in another way, or to others.
    Serve(DatabaseName, ServeMode, AccessSpec, Option<Resolver>),
    /// Have a database look for peers in these ways from now on; links to peers that were found go on, or end.
    Seek(DatabaseName, Vec<SyncSpec>),
    /// Let a link go on in another way, on the session that is open.
    ChangeLink {
        /// Of this database.
        database: DatabaseName,
        /// The link as it is.
        from: Box<LinkSpec>,
        /// As it is wanted.
        to: Box<LinkSpec>,
    },
    /// Open a link and keep it up.
    OpenLink {
        /// Of this database.
        database: DatabaseName,
        /// The link.
        link: LinkSpec,
    },
}

/// Which part of a link changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LinkChange {
    /// The pattern that asks for it.
    Pattern,
    /// Which ways.
    Mode,
    /// Which records and fields.
    View,
    /// What happens to records that leave.
    Removals,
    /// What is sealed.
    Encryption,
    /// Whether batches are compressed.
    Compression,
    /// What goes first.
    Priority,
    /// Anything else in the policy.
    Policy,
    /// The key that the other node must have.
    Key,
}

impl LinkChange {
    /// The change in one word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pattern => "pattern",
            Self::Mode => "mode",
            Self::View => "view",
            Self::Removals => "removals",
            Self::Encryption => "encryption",
            Self::Compression => "compression",
            Self::Priority => "priority",
            Self::Policy => "policy",
            Self::Key => "key",
        }
    }

    /// What tells two states of a link apart.
    #[must_use]
    pub fn between(from: &LinkSpec, to: &LinkSpec) -> Vec<Self> {
        let (old, new) = (&from.policy, &to.policy);
        let view = |p: &super::PolicySpec| (p.teams.clone(), p.filter.clone(), p.exclude_fields.clone());
        let removals = |p: &super::PolicySpec| (p.on_left_filter, p.on_access_revoked);
        let rest = |link: &LinkSpec| (link.policy.respect_rls, link.policy.release_after_ack, link.optional);
        let named = |link: &LinkSpec| (link.name.clone(), link.pattern, link.remote_is_authority);
        [
            (named(from) != named(to), Self::Pattern),
            (from.mode != to.mode, Self::Mode),
            (view(old) != view(new), Self::View),
            (removals(old) != removals(new), Self::Removals),
            (old.encryption != new.encryption, Self::Encryption),
            (old.compression != new.compression, Self::Compression),
            (old.priority != new.priority, Self::Priority),
            (rest(from) != rest(to), Self::Policy),
            (from.remote_key != to.remote_key, Self::Key),
        ]
        .into_iter()
        .filter_map(|(differs, change)| differs.then_some(change))
        .collect()
    }
}

/// What is to be done, in this order. Empty if all is as wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// The actions.
    pub actions: Vec<Action>,
}

/// A specification can't be put to work on a running node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It contradicts itself.
    #[error("databases.{database}: {problem}")]
    Contradiction {
        /// In this database.
        database: DatabaseName,
        /// What is wrong.
        problem: Contradiction,
    },
    /// It changes what is fixed while the node runs.
    #[error("{key}: it can't change while the node runs: set it back, or stop the node and start it again")]
    Fixed {
        /// The key with its table.
        key: &'static str,
    },
}

impl Actual {
    /// A node that runs everything that a specification asks for.
    ///
    /// # Errors
    /// [`PlanError::Contradiction`] if nobody could.
    pub fn of(spec: &TopologySpec) -> Result<Self, PlanError> {
        let mut databases = BTreeMap::new();
        for (name, database) in &spec.databases {
            let contradiction = |problem| PlanError::Contradiction { database: name.clone(), problem };
            let mut links = expand(database).map_err(contradiction)?;
            sort(&mut links);
            let DatabaseSpec { serve, access, indexes, .. } = database.clone();
            let file = FileSpec::of(database);
            let (decides, seeks) = (database.decides(), seekers(database).cloned().collect());
            let opened = ActualDatabase { file, indexes, serve, access, decides, links, seeks };
            databases.insert(name.clone(), opened);
        }
        Ok(Self { node: spec.node.clone(), auth: spec.auth.clone(), databases })
    }

    /// Notes that an action was carried out.
    pub fn done(&mut self, action: &Action) {
        match action {
            Action::OpenDatabase(name, file) => {
                let opened = ActualDatabase {
                    file: file.clone(),
                    indexes: Vec::new(),
                    serve: ServeMode::None,
                    access: AccessSpec::default(),
                    decides: None,
                    links: Vec::new(),
                    seeks: Vec::new(),
                };
                self.databases.insert(name.clone(), opened);
            }
            Action::CloseDatabase(name) => drop(self.databases.remove(name)),
            Action::Index(name, fields) => {
                self.change(name, |database| database.indexes.clone_from(fields));
            }
            Action::Serve(name, serve, access, decides) => self.change(name, |database| {
                database.serve = *serve;
                database.access = access.clone();
                database.decides = *decides;
            }),
            Action::Seek(name, seeks) => self.change(name, |database| database.seeks.clone_from(seeks)),
            Action::CloseLink { database, link } => {
                self.change(database, |database| database.links.retain(|other| other != link));
            }
            Action::OpenLink { database, link } => {
                self.change(database, |database| database.links.push(link.clone()));
            }
            Action::ChangeLink { database, from, to } => self.change(database, |database| {
                database
                    .links
                    .iter_mut()
                    .filter(|link| *link == &**from)
                    .for_each(|link| link.clone_from(to));
            }),
        }
    }

    fn change(&mut self, name: &DatabaseName, change: impl FnOnce(&mut ActualDatabase)) {
        if let Some(database) = self.databases.get_mut(name) {
            change(database);
            sort(&mut database.links);
        }
    }
}

impl FileSpec {
    /// The part of a database's entry that says how its file is opened.
    #[must_use]
    pub fn of(database: &DatabaseSpec) -> Self {
        let DatabaseSpec { file, password, durability, tombstone_lease, search, .. } = database.clone();
        Self { file, password, durability, tombstone_lease, search }
    }
}

fn sort(links: &mut [LinkSpec]) {
    links.sort_by(|a, b| a.name.cmp(&b.name));
}

/// What has to be done for a node that runs `actual` to run what is `desired`.
///
/// # Errors
/// [`PlanError`] if it can't be done while the node runs, or at all.
pub fn plan(desired: &TopologySpec, actual: &Actual) -> Result<Plan, PlanError> {
    if let Some(key) = fixed(desired, actual) {
        return Err(PlanError::Fixed { key });
    }
    let desired = Actual::of(desired)?;
    let mut plan = Stages::default();
    for (name, database) in &actual.databases {
        let wanted = desired.databases.get(name);
        let stays = wanted.is_some_and(|wanted| wanted.file == database.file);
        for link in &database.links {
            if !stays || wanted.is_none_or(|wanted| same(link, &wanted.links).is_none()) {
                plan.close_links.push(Action::CloseLink { database: name.clone(), link: link.clone() });
            }
        }
        if !stays {
            plan.close.push(Action::CloseDatabase(name.clone()));
        }
    }
    for (name, wanted) in &desired.databases {
        let there = actual.databases.get(name).filter(|there| there.file == wanted.file);
        plan.bring_up(name, wanted, there);
    }
    let Stages { close_links, close, open, links } = plan;
    Ok(Plan { actions: [close_links, close, open, links].concat() })
}

/// The actions by the order in which they are possible.
#[derive(Default)]
struct Stages {
    close_links: Vec<Action>,
    close: Vec<Action>,
    open: Vec<Action>,
    links: Vec<Action>,
}

impl Stages {
    /// What a database lacks of what is wanted; `there` is what stays of it.
    fn bring_up(&mut self, name: &DatabaseName, wanted: &ActualDatabase, there: Option<&ActualDatabase>) {
        if there.is_none() {
            self.open.push(Action::OpenDatabase(name.clone(), wanted.file.clone()));
        }
        if there.map_or(&[][..], |there| &there.indexes) != wanted.indexes {
            self.open.push(Action::Index(name.clone(), wanted.indexes.clone()));
        }
        let unserved = (ServeMode::None, &AccessSpec::default(), None);
        let ActualDatabase { serve, access, decides, .. } = wanted;
        if there.map_or(unserved, |there| (there.serve, &there.access, there.decides))
            != (*serve, access, *decides)
        {
            self.open.push(Action::Serve(name.clone(), *serve, access.clone(), *decides));
        }
        if there.map_or(&[][..], |there| &there.seeks) != wanted.seeks {
            self.links.push(Action::Seek(name.clone(), wanted.seeks.clone()));
        }
        for link in &wanted.links {
            let database = name.clone();
            match there.and_then(|there| same(link, &there.links)) {
                Some(from) if from == link => {}
                Some(from) => {
                    let (from, to) = (Box::new(from.clone()), Box::new(link.clone()));
                    self.links.push(Action::ChangeLink { database, from, to });
                }
                None => self.links.push(Action::OpenLink { database, link: link.clone() }),
            }
        }
    }
}

/// The one of `links` that does the work of `link`. A database has no two of these.
fn same<'l>(link: &LinkSpec, links: &'l [LinkSpec]) -> Option<&'l LinkSpec> {
    links.iter().find(|other| other.target == link.target && other.remote == link.remote)
}

/// What is wanted otherwise and can't be.
fn fixed(desired: &TopologySpec, actual: &Actual) -> Option<&'static str> {
    let (new, old) = (&desired.node, &actual.node);
    [
        (new.name != old.name, "node.name"),
        (new.data != old.data, "node.data"),
        (new.listen != old.listen, "node.listen"),
        (new.admin != old.admin, "node.admin"),
        (new.admin_token_file != old.admin_token_file, "node.admin_token_file"),
        (new.tls != old.tls, "node.tls"),
        (new.token_file != old.token_file, "node.token_file"),
        (new.clock_drift_limit != old.clock_drift_limit, "node.clock_drift_limit"),
        (desired.auth != actual.auth, "auth"),
    ]
    .into_iter()
    .find_map(|(differs, key)| differs.then_some(key))
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloseLink { database, link } => write!(f, "close link {database} {link}"),
            Self::CloseDatabase(database) => write!(f, "close database {database}"),
            Self::OpenDatabase(database, file) => {
                write!(f, "open database {database} ({})", file.file.display())
            }
            Self::Index(database, fields) if fields.is_empty() => write!(f, "index {database}: nothing"),
            Self::Index(database, fields) => write!(f, "index {database}: {}", fields.join(", ")),
            Self::Serve(database, serve, _, None) => write!(f, "serve {database}: {serve}"),
            Self::Serve(database, serve, _, Some(resolver)) => {
                write!(f, "serve {database}: {serve}, as its authority ({resolver})")
            }
            Self::Seek(database, seeks) if seeks.is_empty() => write!(f, "seek peers {database}: no more"),
            Self::Seek(database, seeks) => {
                let names: Vec<&str> = seeks.iter().map(|sync| sync.remote.as_str()).collect();
                write!(f, "seek peers {database}: {}", names.join(", "))
            }
            Self::OpenLink { database, link } => write!(f, "open link {database} {link}"),
            Self::ChangeLink { database, from, to } => {
                write!(f, "change link {database} {to}:")?;
                let mut separator = "";
                for change in LinkChange::between(from, to) {
                    f.write_str(separator)?;
                    match change {
                        LinkChange::Mode => write!(f, " mode {} -> {}", from.mode, to.mode)?,
                        LinkChange::Pattern => write!(f, " pattern {} -> {}", from.pattern, to.pattern)?,
                        other => write!(f, " {}", other.as_str())?,
                    }
                    separator = ",";
                }
                Ok(())
            }
        }
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-> {}/{} ({}, {})", self.target, self.remote, self.pattern, self.mode)
    }
}
