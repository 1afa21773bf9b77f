//! The graph as text: tables, Mermaid, Graphviz.
//!
//! Invariant: whatever a node or database is called, it stays a label: names are escaped for each form.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use blazedb::snapshot::{DatabaseView, LinkView, NodeView, Snapshot};

/// Rows under a head, in columns as wide as they have to be.
#[must_use]
pub fn columns(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|column| column.to_uppercase()).collect();
    let all = || std::iter::once(&head).chain(rows);
    let width = |at: usize| all().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).map(|at| width(at).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        // Words of other nodes reach a terminal here.
        cells.join("  ").trim_end().replace(|c: char| c.is_control(), " ")
    };
    all().map(line).collect()
}

/// What people call a node: its name, or its address, or its id.
#[must_use]
pub fn called(node: &NodeView) -> &str {
    match (node.name.as_str(), &node.address) {
        ("", Some(address)) => address,
        ("", None) => &node.id,
        (name, _) => name,
    }
}

/// A database with its node, as people call them.
#[must_use]
pub fn place(snapshot: &Snapshot, database: &str) -> String {
    let (node, name) = database.rsplit_once('/').unwrap_or(("", database));
    let known = snapshot.nodes.iter().find(|known| known.id == node);
    format!("{}/{name}", known.map_or(node, called))
}

/// An arrow from client to server that shows which way changes go.
#[must_use]
pub fn arrow(mode: &str) -> &'static str {
    match mode {
        "bidirectional" => "<->",
        "read-only" => "<--",
        "write-only" => "-->",
        _ => "---",
    }
}

/// Bytes, or bytes a second, in few characters.
#[must_use]
pub fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    let unit = units.get(unit).copied().unwrap_or_default();
    if value < 10.0 && unit != "B" { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// The graph as tables: nodes, databases, links.
#[must_use]
pub fn text(snapshot: &Snapshot) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let nodes: Vec<Vec<String>> = snapshot
        .nodes
        .iter()
        .map(|node| {
            let figures = node.figures;
            vec![
                called(node).to_owned(),
                node.kind.clone(),
                node.state.clone(),
                or_dash(&node.address),
                format!("{:.1}", figures.ops_per_s),
                figures.lag_ms.to_string(),
                node.id.clone(),
            ]
        })
        .collect();
    let mut lines = columns(&["node", "is", "state", "address", "ops/s", "lag_ms", "id"], &nodes);
    let here = snapshot.databases.iter().filter(|database| database.node == snapshot.this);
    let databases: Vec<Vec<String>> = here.map(|database| database_row(snapshot, database)).collect();
    if !databases.is_empty() {
        lines.push(String::new());
        lines.extend(columns(&["database", "pattern", "mode", "serve", "records", "ops/s"], &databases));
    }
    let links: Vec<Vec<String>> = snapshot.links.iter().map(|link| link_row(snapshot, link)).collect();
    if !links.is_empty() {
        lines.push(String::new());
        lines.extend(columns(LINK_HEAD, &links));
    }
    lines
}

/// The head of the rows that [`link_row`] makes.
pub const LINK_HEAD: &[&str] =
    &["client", "", "server", "pattern", "state", "pending", "lag_ms", "out/s", "in/s", "e2e", "note"];

fn database_row(snapshot: &Snapshot, database: &DatabaseView) -> Vec<String> {
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let records = database.figures.records;
    vec![
        place(snapshot, &database.id),
        or_dash(&database.pattern),
        or_dash(&database.mode),
        or_dash(&database.serve),
        records.map_or_else(|| "-".to_owned(), |records| records.to_string()),
        format!("{:.1}", database.figures.ops_per_s),
    ]
}

/// A link as a row.
#[must_use]
pub fn link_row(snapshot: &Snapshot, link: &LinkView) -> Vec<String> {
    let figures = link.figures;
    let note = link.error.as_ref().map(|error| error.message.clone()).or_else(|| link.notice.clone());
    vec![
        place(snapshot, &link.client),
        arrow(&link.mode).to_owned(),
        place(snapshot, &link.server),
        link.pattern.clone().unwrap_or_else(|| "-".to_owned()),
        link.state.clone(),
        figures.pending.map_or_else(|| "-".to_owned(), |pending| pending.to_string()),
        figures.lag_ms.to_string(),
        bytes(figures.bytes_sent_per_s),
        bytes(figures.bytes_received_per_s),
        link.encryption.clone().filter(|kind| kind != "smart-proxy").unwrap_or_else(|| "-".to_owned()),
        note.unwrap_or_default(),
    ]
}

/// A node as it is drawn: its place in the snapshot, and the names of its databases in the drawing.
struct Drawn<'a> {
    at: usize,
    node: &'a NodeView,
    databases: Vec<(String, &'a DatabaseView)>,
}

fn by_node(snapshot: &Snapshot) -> Vec<Drawn<'_>> {
    let drawn = |(at, node): (usize, &'_ NodeView)| {
        let own = snapshot.databases.iter().filter(|database| database.node == node.id);
        own.enumerate().map(|(number, database)| (format!("n{at}d{number}"), database)).collect::<Vec<_>>()
    };
    let nodes = snapshot.nodes.iter().enumerate();
    nodes.map(|(at, node)| Drawn { at, node, databases: drawn((at, node)) }).collect()
}

/// The names that databases have in a drawing, by id.
fn drawn(nodes: &[Drawn<'_>]) -> BTreeMap<String, String> {
    let all = nodes.iter().flat_map(|drawn| &drawn.databases);
    all.map(|(name, database)| (database.id.clone(), name.clone())).collect()
}

fn is_up(link: &LinkView) -> bool {
    matches!(link.state.as_str(), "idle" | "syncing")
}

/// The graph for Mermaid (`flowchart`).
#[must_use]
pub fn mermaid(snapshot: &Snapshot) -> String {
    let nodes = by_node(snapshot);
    let drawn = drawn(&nodes);
    let mut out = "flowchart LR\n".to_owned();
    // Writing to a string does not fail.
    for Drawn { at, node, databases } in &nodes {
        let _ = writeln!(out, "  subgraph n{at}[\"{}\"]", for_mermaid(called(node)));
        for (name, database) in databases {
            let _ = writeln!(out, "    {name}[(\"{}\")]", for_mermaid(&database.name));
        }
        out.push_str("  end\n");
    }
    for link in &snapshot.links {
        let (Some(client), Some(server)) = (drawn.get(&link.client), drawn.get(&link.server)) else {
            continue;
        };
        let line = if is_up(link) { "--" } else { "-.-" };
        let (from, head, to) = match link.mode.as_str() {
            "bidirectional" => (client, "<", server),
            "read-only" => (server, "", client),
            _ => (client, "", server),
        };
        let tail = if link.mode.is_empty() && is_up(link) { "-" } else { ">" };
        let label = for_mermaid(&format!("{} {}", link.mode, link.state));
        let _ = writeln!(out, "  {from} {head}{line}{tail}|\"{}\"| {to}", label.trim());
    }
    out
}

fn for_mermaid(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            c if c.is_alphanumeric() || " -_.:/[]()".contains(c) => out.push(c),
            c => {
                let _ = write!(out, "#{};", u32::from(c));
            }
        }
    }
    out
}

/// The graph for Graphviz.
#[must_use]
pub fn dot(snapshot: &Snapshot) -> String {
    let nodes = by_node(snapshot);
    let drawn = drawn(&nodes);
    let mut out = "digraph blazedb {\n  rankdir=LR;\n  node [shape=cylinder];\n".to_owned();
    for Drawn { at, node, databases } in &nodes {
        let _ = writeln!(out, "  subgraph cluster_n{at} {{\n    label={};", for_dot(called(node)));
        if databases.is_empty() {
            let _ = writeln!(out, "    n{at} [style=invis];");
        }
        for (name, database) in databases {
            let _ = writeln!(out, "    {name} [label={}];", for_dot(&database.name));
        }
        out.push_str("  }\n");
    }
    for link in &snapshot.links {
        let (Some(client), Some(server)) = (drawn.get(&link.client), drawn.get(&link.server)) else {
            continue;
        };
        let dir = match link.mode.as_str() {
            "bidirectional" => "both",
            "read-only" => "back",
            "write-only" => "forward",
            _ => "none",
        };
        let style = if is_up(link) { "solid" } else { "dashed" };
        let label = for_dot(format!("{} {}", link.mode, link.state).trim());
        let _ = writeln!(out, "  {client} -> {server} [dir={dir}, style={style}, label={label}];");
    }
    out.push_str("}\n");
    out
}

fn for_dot(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace(|c: char| c.is_control(), " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let node =
            |id: &str, name: &str| NodeView { id: id.into(), name: name.into(), ..NodeView::default() };
        let database = |node: &str| DatabaseView {
            id: format!("{node}/bugs"),
            node: node.into(),
            name: "bugs".into(),
            ..DatabaseView::default()
        };
        let link = |mode: &str, state: &str| LinkView {
            client: "b/bugs".into(),
            server: "a/bugs".into(),
            mode: mode.into(),
            state: state.into(),
            ..LinkView::default()
        };
        Snapshot {
            this: "a".into(),
            nodes: vec![node("a", "hub\"]; x --> y"), node("b", "")],
            databases: vec![database("a"), database("b")],
            links: vec![link("bidirectional", "idle"), link("read-only", "offline")],
            ..Snapshot::default()
        }
    }

    #[test]
    fn arrows_show_the_way_and_dashes_what_is_down() {
        let drawn = mermaid(&snapshot());
        assert!(drawn.contains("n1d0 <-->|\"bidirectional idle\"| n0d0"), "{drawn}");
        assert!(drawn.contains("n0d0 -.->|\"read-only offline\"| n1d0"), "{drawn}");
        let drawn = dot(&snapshot());
        assert!(drawn.contains("n1d0 -> n0d0 [dir=both, style=solid"), "{drawn}");
        assert!(drawn.contains("n1d0 -> n0d0 [dir=back, style=dashed"), "{drawn}");
    }

    #[test]
    fn a_name_stays_a_label() {
        assert!(mermaid(&snapshot()).contains("subgraph n0[\"hub#34;]#59; x --#62; y\"]"));
        assert!(dot(&snapshot()).contains("label=\"hub\\\"]; x --> y\";"));
    }

    #[test]
    fn tables_name_both_ends() {
        let lines = text(&snapshot());
        assert!(lines.iter().any(|line| line.starts_with("b/bugs") && line.contains("<->")), "{lines:?}");
        assert_eq!(
            (bytes(1023.0), bytes(2048.0), bytes(52_428_800.0)),
            ("1023 B".into(), "2.0 KiB".into(), "50 MiB".into())
        );
    }
}
