//! A running node becomes what another specification declares.
//!
//! Invariants: what can't be carried out whole, as far as that can be known, changes nothing; links that did not change
//! are not touched; what was done is known (`State::actual`), so that applying again goes on from there.

use std::time::Duration;

use blazedb::{Database, Filter, Forecast, StoreError};
use blazedb_core::topology::{
    self, Action, FileSpec, LinkChange, LinkSpec, OnRemoval, Plan, PolicySpec, SyncMode, TopologySpec,
};
use tokio::time::{Instant, sleep};

use crate::node::{Node, NodeError, database_password, index};
use crate::terms::{found_terms, remote_key, terms};

/// How long a database that was closed may be in use by what ends just now.
const WAIT_FOR_FILE: Duration = Duration::from_secs(5);

/// What an action does to records, as far as this node can tell.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Effect {
    /// Records that this node sends.
    pub sends: u64,
    /// Their bytes, before names and compression.
    pub bytes: u64,
    /// Why the other side was not asked; then they are that many only if it has none of them.
    pub unasked: Option<String>,
    /// Records that the other side sends, if it was asked.
    pub receives: Option<u64>,
    /// Records that are removed from this node.
    pub removes: u64,
}

/// An action of a plan and what comes of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// The action.
    pub action: Action,
    /// What it does to records; `None` if it does nothing to them, or its database is not open yet.
    pub effect: Option<Effect>,
}

/// Applying stopped in the middle.
#[derive(Debug, thiserror::Error)]
#[error("{done} of {all} actions are done, then: {action}: {error}")]
pub struct Stopped {
    /// So many actions were carried out.
    pub done: usize,
    /// Of so many.
    pub all: usize,
    /// This one was not.
    pub action: Box<Action>,
    /// Why.
    pub error: Box<NodeError>,
}

impl Node {
    /// What has to be done for this node to run what is desired. Reads databases; changes nothing.
    ///
    /// # Errors
    /// [`NodeError`] if it can't be done.
    pub fn plan(&self, desired: &TopologySpec) -> Result<Vec<Step>, NodeError> {
        let actual = self.state().actual.clone();
        let Plan { actions } = topology::plan(desired, &actual)?;
        actions.iter().try_for_each(|action| self.check(action))?;
        actions.into_iter().map(|action| Ok(Step { effect: self.effect(&action)?, action })).collect()
    }

    /// Carries out what [`Node::plan`] said.
    ///
    /// # Errors
    /// [`Stopped`] if an action fails; those before it are done, and applying again goes on with it.
    pub async fn carry_out(&self, desired: TopologySpec, steps: &[Step]) -> Result<(), Stopped> {
        for (done, Step { action, .. }) in steps.iter().enumerate() {
            let outcome = self.act(action).await;
            outcome.map_err(|error| Stopped {
                done,
                all: steps.len(),
                action: Box::new(action.clone()),
                error: Box::new(error),
            })?;
            tracing::info!(%action, "applied");
            self.state_mut().actual.done(action);
            if matches!(action, Action::Seek(..) | Action::Serve(..) | Action::CloseDatabase(..))
                && self.listener().is_some()
                && let Err(error) = self.announce()
            {
                tracing::warn!(%error, "peers on the local network were not told");
            }
        }
        let before = std::mem::replace(&mut self.state_mut().spec, std::sync::Arc::new(desired));
        self.relate_anew(&before, steps);
        Ok(())
    }

    /// Relations hold between open databases: those of what was opened anew, and those that are declared in another way.
    fn relate_anew(&self, before: &TopologySpec, steps: &[Step]) {
        let opened = |name: &topology::DatabaseName| {
            steps.iter().any(|step| matches!(&step.action, Action::OpenDatabase(opened, _) if opened == name))
        };
        for (name, spec) in &self.spec().databases {
            let known = before.databases.iter().find(|(known, _)| *known == name).map(|(_, spec)| spec);
            for (field, relation) in &spec.relations {
                let same = known.is_some_and(|known| known.relations.get(field) == Some(relation));
                let ends = self.database(name.as_str()).zip(self.database(relation.to.as_str()));
                let Some((child, parent)) = ends.filter(|_| !same || opened(name) || opened(&relation.to))
                else {
                    continue;
                };
                if let Err(error) = self.topology().relate(&child, field, &parent, relation.on_delete) {
                    tracing::error!(%error, database = %name, field, "the relation is not kept");
                }
            }
        }
    }

    /// Asks the other sides of links that are to be opened, or to push from now on, what they have already, all at once.
    /// Changes nothing, here or there; whoever can't be asked leaves the step as it is, with the reason.
    pub async fn ask_others(&self, steps: &mut [Step]) {
        let asked = steps.iter().map(|step| self.forecast(&step.action));
        let forecasts = futures_util::future::join_all(asked).await;
        for (step, forecast) in steps.iter_mut().zip(forecasts) {
            let Some(effect) = &mut step.effect else { continue };
            match forecast {
                None => {}
                Some(Err(reason)) => effect.unasked = Some(reason),
                Some(Ok(Forecast { sends, bytes_sent, receives, removes, .. })) => {
                    let receives = Some(receives);
                    *effect = Effect { sends, bytes: bytes_sent, unasked: None, receives, removes };
                }
            }
        }
    }

    /// What the session of a link would carry, if that is not for this node alone to tell.
    async fn forecast(&self, action: &Action) -> Option<Result<Forecast, String>> {
        let (name, link) = match action {
            Action::OpenLink { database, link } => (database, link),
            Action::ChangeLink { database, from, to } if starts_to_push(from, to) => (database, &**to),
            _ => return None,
        };
        if link.mode == SyncMode::LocalOnly {
            return None;
        }
        let databases = self.topology().databases();
        let (node, _) = databases.into_iter().find(|(node, _)| node.name() == name.as_str())?;
        let (remote, policy) = terms(name.as_str(), link).ok()?;
        Some(self.topology().forecast(&node, remote, &policy).await.map_err(|error| error.to_string()))
    }

    /// Finds what would make an action fail.
    fn check(&self, action: &Action) -> Result<(), NodeError> {
        match action {
            Action::OpenDatabase(name, file) => {
                database_password(name.as_str(), &file.password, self.base()).map(drop)
            }
            Action::OpenLink { database, link } => terms(database.as_str(), link).map(drop),
            Action::ChangeLink { database, to, .. } => terms(database.as_str(), to).map(drop),
            Action::Seek(name, seeks) => {
                seeks.iter().try_for_each(|sync| found_terms(name.as_str(), sync).map(drop))
            }
            _ => Ok(()),
        }
    }

    async fn act(&self, action: &Action) -> Result<(), NodeError> {
        match action {
            Action::CloseLink { database, link } => self.close_link(database.as_str(), link).await,
            Action::CloseDatabase(name) => self.close_database(name.as_str()).await,
            Action::OpenDatabase(name, file) => {
                self.reopen(name.as_str(), file).await?;
                match self.database(name.as_str()) {
                    Some(database) => index(name.as_str(), database, Vec::new(), file.search.clone()).await,
                    None => Ok(()),
                }
            }
            Action::Index(name, fields) => match self.database(name.as_str()) {
                Some(database) => {
                    let actual = self.state().actual.databases.clone();
                    let search = actual.get(name).map(|held| held.file.search.clone()).unwrap_or_default();
                    index(name.as_str(), database, fields.clone(), search).await
                }
                None => Ok(()),
            },
            Action::Serve(name, serve, access, decides) => {
                let served = self.served(name.as_str(), *serve, access, *decides)?;
                self.listener()
                    .into_iter()
                    .for_each(|listener| listener.serve(name.as_str(), served.clone()));
                Ok(())
            }
            Action::Seek(name, seeks) => self.seek(name.as_str(), seeks).await,
            Action::OpenLink { database, link } => self.open_link(database.as_str(), link.clone()).await,
            Action::ChangeLink { database, from, to } => self.change_link(database.as_str(), from, to),
        }
    }

    async fn close_link(&self, database: &str, link: &LinkSpec) -> Result<(), NodeError> {
        let mut closed = Vec::new();
        self.state_mut().links.retain(|(of, other, id)| {
            let is_it = of == database && other == link;
            closed.extend(is_it.then_some(*id));
            !is_it
        });
        for id in closed {
            self.topology().remove_connection(id).await?;
        }
        Ok(())
    }

    async fn close_database(&self, name: &str) -> Result<(), NodeError> {
        if let Some(listener) = self.listener() {
            listener.serve(name, None);
        }
        let removed = self.state_mut().databases.remove(name);
        if let Some((registered, _)) = removed {
            self.topology().unregister(registered).await?;
        }
        Ok(())
    }

    /// Opens a database; if it was open until now, as soon as its last session has let go of it.
    async fn reopen(&self, name: &str, file: &FileSpec) -> Result<(), NodeError> {
        let gives_up = Instant::now() + WAIT_FOR_FILE;
        loop {
            match self.open_database(name, file, self.base()).await {
                Err(NodeError::Store { error: StoreError::InUse(..), .. }) if Instant::now() < gives_up => {
                    sleep(Duration::from_millis(50)).await;
                }
                opened => return opened.map(drop),
            }
        }
    }

    fn change_link(&self, database: &str, from: &LinkSpec, to: &LinkSpec) -> Result<(), NodeError> {
        let (_, policy) = terms(database, to)?;
        let key = remote_key(database, to)?;
        let mut state = self.state_mut();
        for (of, link, id) in &mut state.links {
            if of == database && link == from {
                self.topology().change_connection(*id, key, policy.clone())?;
                *link = to.clone();
            }
        }
        Ok(())
    }

    fn effect(&self, action: &Action) -> Result<Option<Effect>, NodeError> {
        let (name, from, to) = match action {
            Action::OpenLink { database, link } => (database, None, link),
            Action::ChangeLink { database, from, to } => (database, Some(&**from), &**to),
            _ => return Ok(None),
        };
        let Some(database) = self.database(name.as_str()) else { return Ok(None) };
        let failed = |error| NodeError::Store { name: name.to_string(), error };
        let effect = match from {
            None => Count(&database).opened(to),
            Some(from) => Count(&database).changed(from, to),
        };
        effect.map(Some).map_err(failed)
    }
}

/// Counts records of a database.
struct Count<'d>(&'d Database);

impl Count<'_> {
    fn of(&self, filter: Option<Filter>) -> Result<(u64, u64), StoreError> {
        self.0.store().measure(filter.as_ref())
    }

    /// Records that one view has and the other does not.
    fn in_one_only(&self, one: &Option<Filter>, other: &Option<Filter>) -> Result<(u64, u64), StoreError> {
        let both = match (one.clone(), other.clone()) {
            (Some(one), Some(other)) => Some(one.and(other)),
            (one, other) => one.or(other),
        };
        let ((all, all_bytes), (both, both_bytes)) = (self.of(one.clone())?, self.of(both)?);
        Ok((all.saturating_sub(both), all_bytes.saturating_sub(both_bytes)))
    }

    fn opened(&self, link: &LinkSpec) -> Result<Effect, StoreError> {
        if !link.mode.direction().push {
            return Ok(Effect::default());
        }
        let (sends, bytes) = self.of(filter_of(&link.policy)?)?;
        Ok(Effect { sends, bytes, ..Effect::default() })
    }

    fn changed(&self, from: &LinkSpec, to: &LinkSpec) -> Result<Effect, StoreError> {
        let (was, is) = (from.mode.direction(), to.mode.direction());
        if starts_to_push(from, to) {
            return Ok(Effect { removes: self.removed(from, to)?, ..self.opened(to)? });
        }
        let mut effect = Effect { removes: self.removed(from, to)?, ..Effect::default() };
        if is.push && LinkChange::between(from, to).contains(&LinkChange::View) {
            let (old, new) = (filter_of(&from.policy)?, filter_of(&to.policy)?);
            let hidden = &to.policy.exclude_fields;
            let shows_more = from.policy.exclude_fields.iter().any(|field| !hidden.contains(field));
            (effect.sends, effect.bytes) =
                if shows_more { self.of(new.clone())? } else { self.in_one_only(&new, &old)? };
            if was.push && effect.removes > 0 {
                // Before the other side takes away what was written here, it is told once more.
                let (sends, bytes) = self.0.store().measure_told_again(old.as_ref(), new.as_ref())?;
                (effect.sends, effect.bytes) = (effect.sends + sends, effect.bytes + bytes);
            }
        }
        Ok(effect)
    }

    /// What the other side showed and takes away.
    fn removed(&self, from: &LinkSpec, to: &LinkSpec) -> Result<u64, StoreError> {
        if !to.mode.direction().pull || to.policy.on_left_filter == OnRemoval::Keep {
            return Ok(0);
        }
        let (old, new) = (filter_of(&from.policy)?, filter_of(&to.policy)?);
        Ok(self.in_one_only(&old, &new)?.0)
    }
}

/// Whether a changed link sends what it did not send before.
fn starts_to_push(from: &LinkSpec, to: &LinkSpec) -> bool {
    to.mode.direction().push && !from.mode.direction().push
}

fn filter_of(policy: &PolicySpec) -> Result<Option<Filter>, StoreError> {
    let text = policy.combined_filter();
    let parsed = text.map(|text| Filter::parse(&text)).transpose();
    parsed.map_err(|error| StoreError::Filter(error.to_string()))
}
