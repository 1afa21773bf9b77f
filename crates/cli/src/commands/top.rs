//! `blazedb top`: databases and links of the running node, live.

use std::time::Duration;

use axum::body::Body;
use axum::http::Method;
use blazedb::snapshot::Snapshot;
use clap::Args;
use console::{Key, Term, style};
use serde_json::{Map, Value as Json};

use crate::args::GlobalArgs;
use crate::client::Client;
use crate::commands::node::interrupted;
use crate::commands::topology::snapshot;
use crate::load::load;
use crate::output::{CliError, ErrorCode, Output};
use crate::render::{LINK_HEAD, called, columns, link_row, place};

/// Arguments of `top`.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// Print one picture and end, as it does without a terminal
    #[arg(long)]
    pub once: bool,
}

/// `top`: until q, ^C or SIGTERM.
///
/// # Errors
/// [`ErrorCode::Unreachable`] if the node does not run, or goes away.
pub async fn run(args: &TopArgs, global: &GlobalArgs, output: &mut Output) -> Result<(), CliError> {
    let spec = load(global)?;
    let Some(mut client) = Client::running(&spec, &global.file).await? else {
        return Err(CliError::new(ErrorCode::Unreachable, format!("node {} does not run", spec.node.name))
            .with_hint("start it with `blazedb up`"));
    };
    let term = Term::stdout();
    if args.once || !term.is_term() {
        let now = snapshot(client.json(Method::GET, "/v1/topology", Body::empty()).await?)?;
        return picture(&now, usize::MAX, usize::MAX).iter().try_for_each(|line| output.line(line));
    }
    let reply = client.ask(Method::GET, "/v1/topology/events", Body::empty()).await?;
    let mut model = Model::default();
    let _ = term.hide_cursor();
    let shown = async {
        tokio::select! {
            done = reply.lines(|line| model.read(line).and_then(|()| model.draw(&term))) => done,
            stopped = interrupted() => stopped,
            () = quit(term.clone()) => Ok(()),
        }
    };
    let done = shown.await;
    let _ = term.show_cursor();
    done
}

/// Waits for q.
async fn quit(term: Term) {
    let (pressed, waits) = tokio::sync::oneshot::channel();
    // A thread of its own: a read of the terminal can't be called off, and would hold up the end of the runtime.
    std::thread::spawn(move || {
        loop {
            match term.read_key() {
                Ok(Key::Char('q') | Key::Escape | Key::CtrlC) => break,
                Ok(_) => {}
                Err(_) => std::thread::sleep(Duration::from_secs(1)),
            }
        }
        let _ = pressed.send(());
    });
    let _ = waits.await;
}

/// What the events have told so far.
#[derive(Default)]
struct Model(Json);

impl Model {
    /// Takes in a line of an event; only those with data say anything.
    fn read(&mut self, line: &[u8]) -> Result<(), CliError> {
        let Some(data) = line.strip_prefix(b"data: ") else { return Ok(()) };
        let told: Json = serde_json::from_slice(data)
            .map_err(|error| CliError::new(ErrorCode::Failed, format!("the node's event: {error}")))?;
        if told["this"].is_string() {
            self.0 = told;
        } else {
            self.change(&told);
        }
        Ok(())
    }

    fn change(&mut self, told: &Json) {
        let empty = Map::new();
        let figures = told["figures"].as_object().unwrap_or(&empty);
        let gone: Vec<&str> =
            told["gone"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        self.0["at_ms"] = told["at_ms"].clone();
        for list in ["nodes", "databases", "links"] {
            let changed = told[list].as_array().cloned().unwrap_or_default();
            let Some(items) = self.0[list].as_array_mut() else { continue };
            let is = |a: &Json, b: &Json| a["id"] == b["id"];
            items.retain(|item| {
                !gone.contains(&item["id"].as_str().unwrap_or_default())
                    && !changed.iter().any(|new| is(new, item))
            });
            items.extend(changed);
            items.sort_by(|a, b| a["id"].as_str().cmp(&b["id"].as_str()));
            for item in items {
                if let Some(new) = item["id"].as_str().and_then(|id| figures.get(id)).cloned() {
                    item["figures"] = new;
                }
            }
        }
    }

    fn draw(&self, term: &Term) -> Result<(), CliError> {
        let (rows, width) = term.size();
        let lines = picture(&snapshot(self.0.clone())?, width.into(), rows.saturating_sub(1).into());
        let text: String = lines.iter().map(|line| format!("{line}\u{1b}[K\n")).collect();
        // Home, the lines, and nothing below: less flicker than clearing first.
        let drawn = term.write_str(&format!("\u{1b}[H{text}\u{1b}[J")).and_then(|()| term.flush());
        drawn.map_err(|error| CliError::io("terminal", &error))
    }
}

/// The picture of one moment, no wider and no longer than this.
fn picture(now: &Snapshot, width: usize, height: usize) -> Vec<String> {
    let this = now.nodes.iter().find(|node| node.id == now.this);
    let up = now.links.iter().filter(|link| matches!(link.state.as_str(), "idle" | "syncing")).count();
    let mut lines = vec![format!(
        "{}  {:.1} ops/s  {up} of {} links up  {} nodes  q ends",
        this.map_or("", called),
        this.map_or(0.0, |node| node.figures.ops_per_s),
        now.links.len(),
        now.nodes.len(),
    )];
    let own = now.databases.iter().filter(|database| database.node == now.this);
    let rows: Vec<Vec<String>> = own
        .map(|database| {
            let records = database.figures.records.map_or_else(|| "-".to_owned(), |n| n.to_string());
            vec![
                place(now, &database.id),
                database.pattern.clone().unwrap_or_default(),
                records,
                format!("{:.1}", database.figures.ops_per_s),
            ]
        })
        .collect();
    lines.push(String::new());
    lines.extend(columns(&["database", "pattern", "records", "ops/s"], &rows));
    let mut links: Vec<_> = now.links.iter().collect();
    // What needs a look first.
    links.sort_by_key(|link| (urgency(&link.state), link.id.clone()));
    let rows: Vec<Vec<String>> = links.iter().map(|link| link_row(now, link)).collect();
    lines.push(String::new());
    let states = links.iter().map(|link| link.state.as_str());
    let table = columns(LINK_HEAD, &rows);
    lines.extend(table.iter().take(1).cloned());
    let cut = |line: &String| line.chars().take(width).collect::<String>();
    let mut lines: Vec<String> = lines.iter().map(cut).collect();
    lines.extend(table.iter().skip(1).map(cut).zip(states).map(|(line, state)| coloured(&line, state)));
    lines.truncate(height);
    lines
}

fn urgency(state: &str) -> u8 {
    match state {
        "refused" => 0,
        "offline" => 1,
        "connecting" => 2,
        "syncing" => 3,
        _ => 4,
    }
}

fn coloured(line: &str, state: &str) -> String {
    match state {
        "refused" => style(line).red().to_string(),
        "offline" | "connecting" => style(line).yellow().to_string(),
        "syncing" => style(line).cyan().to_string(),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_become_a_picture() {
        let mut model = Model::default();
        let event = r#"{"at_ms":1,"this":"a","nodes":[{"id":"a","name":"hub","kind":"this","address":null,"fingerprint":null,"state":"running","since_ms":0}],
            "databases":[],"links":[{"id":"b/x>a/x","client":"b/x","server":"a/x","role":"server","address":"","pattern":null,"mode":"bidirectional","granted":null,
            "state":"idle","authority":false,"notice":null,"error":null,"encryption":null,"epoch":null,"policy":null,"since_ms":0,"sessions":1}]}"#;
        let event = event.replace('\n', "");
        model.read(b"event: snapshot\n").unwrap();
        model.read(format!("data: {event}\n").as_bytes()).unwrap();
        let lines = |model: &Model| picture(&snapshot(model.0.clone()).unwrap(), 200, 50).join("\n");
        assert!(lines(&model).contains("hub  0.0 ops/s  1 of 1 links up"), "{}", lines(&model));
        let mut link = model.0["links"][0].clone();
        link["state"] = "offline".into();
        let change = serde_json::json!({ "at_ms": 2, "links": [link], "figures": { "a": { "ops_per_s": 7.0, "lag_ms": 3 } } });
        model.read(format!("data: {change}\n").as_bytes()).unwrap();
        assert!(lines(&model).contains("hub  7.0 ops/s  0 of 1 links up"), "{}", lines(&model));
        model.read(b"data: {\"at_ms\":3,\"gone\":[\"b/x>a/x\"]}\n").unwrap();
        assert!(lines(&model).contains("0 of 0 links up"));
        assert_eq!(picture(&snapshot(model.0.clone()).unwrap(), 3, 2), ["hub", ""]);
    }
}
