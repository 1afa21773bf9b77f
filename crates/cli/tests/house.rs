//! The house rules, held by a test: sizes that only shrink, headers, dependency arrows, a core without I/O.
//!
//! Sizes are compared with `docs/size-ratchet.toml`; why, and what to do when this fails, is in
//! `docs/decisions/0007-size-ratchet.md`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// What each crate may depend on. A crate's row names earlier rows only, so there is no circle.
const ARROWS: &[(&str, &[&str])] = &[
    ("blazedb-core", &[]),
    ("blazedb-sqlite", &[]),
    ("blazedb-store", &["blazedb-core", "blazedb-sqlite"]),
    ("blazedb-transport", &["blazedb-core"]),
    ("blazedb", &["blazedb-core", "blazedb-store", "blazedb-transport"]),
    ("blazedb-hub", &["blazedb-core", "blazedb-store", "blazedb-transport", "blazedb"]),
    (
        "blazedb-bench",
        &["blazedb-core", "blazedb-sqlite", "blazedb-store", "blazedb-transport", "blazedb", "blazedb-hub"],
    ),
    ("blazedb-sim", &["blazedb-core", "blazedb-store", "blazedb-transport", "blazedb"]),
    (
        "blazedb-cli",
        &[
            "blazedb-core",
            "blazedb-store",
            "blazedb-transport",
            "blazedb",
            "blazedb-hub",
            "blazedb-bench",
            "blazedb-sim",
        ],
    ),
];

/// Names that logic without I/O, clock or global randomness has no use for.
const NOT_IN_CORE: &[&str] = &[
    "tokio",
    "fs",
    "OpenOptions",
    "SystemTime",
    "Instant",
    "thread",
    "rand",
    "thread_rng",
    "getrandom",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
];

#[derive(serde::Deserialize)]
struct Ratchet {
    max_file_lines: usize,
    max_function_lines: usize,
    files: BTreeMap<String, usize>,
    functions: BTreeMap<String, usize>,
}

struct Source {
    name: String,
    path: PathBuf,
    text: String,
    syntax: syn::File,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn sources() -> Vec<Source> {
    let mut paths = Vec::new();
    for member in fs::read_dir(root().join("crates")).unwrap() {
        collect(&member.unwrap().path().join("src"), &mut paths);
    }
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
        let text = fs::read_to_string(&path).unwrap();
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        Source { name, path, text, syntax }
    };
    let sources: Vec<_> = paths.into_iter().map(read).collect();
    assert!(sources.len() > 50, "the walk found {} files only", sources.len());
    sources
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn is_test(item: &syn::Item) -> bool {
    attributes(item).iter().any(|attribute| attribute.to_token_stream().to_string() == "# [cfg (test)]")
}

/// Files that are modules of tests: declared as `#[cfg(test)] mod name;`, wherever they are.
fn test_files(sources: &[Source]) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for source in sources {
        for item in source.syntax.items.iter().filter(|item| is_test(item)) {
            let syn::Item::Mod(module) = item else { continue };
            let dir = source.path.parent().unwrap();
            let stem = source.path.file_stem().unwrap().to_str().unwrap();
            let own = if ["mod", "lib", "main"].contains(&stem) { dir.to_owned() } else { dir.join(stem) };
            let path = module.attrs.iter().find_map(|attribute| match &attribute.meta {
                syn::Meta::NameValue(pair) if pair.path.is_ident("path") => {
                    let text = pair.value.to_token_stream().to_string();
                    Some(dir.join(text.trim_matches('"')))
                }
                _ => None,
            });
            found.insert(path.unwrap_or_else(|| own.join(format!("{}.rs", module.ident))));
        }
    }
    found
}

fn lines(span: proc_macro2::Span) -> usize {
    span.end().line - span.start().line + 1
}

fn file_lines(source: &Source) -> usize {
    let tests = source.syntax.items.iter().filter(|item| is_test(item));
    source.text.lines().count() - tests.map(|item| lines(item.span())).sum::<usize>()
}

/// The longest function of each name.
#[derive(Default)]
struct Functions(BTreeMap<String, usize>);

impl Functions {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let size = block.span().end().line - signature.span().start().line + 1;
        let known = self.0.entry(signature.ident.to_string()).or_default();
        *known = size.max(*known);
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if !is_test(item) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

/// What is wrong with `sizes`, given the limit and the exceptions to it.
fn compare(
    what: &str,
    sizes: &BTreeMap<String, usize>,
    limit: usize,
    listed: &BTreeMap<String, usize>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, &size) in sizes {
        match listed.get(name) {
            None if size > limit => {
                wrong.push(format!("{name} has {size} lines, a {what} has at most {limit}: split it"));
            }
            Some(&entry) if size > entry => {
                wrong.push(format!("{name} grew from {entry} to {size} lines: an exception only shrinks"));
            }
            Some(&entry) if size <= limit => {
                wrong.push(format!("{name} has {size} lines now: remove its entry ({entry})"));
            }
            Some(&entry) if size < entry => {
                wrong.push(format!("{name} shrank to {size} lines: lower its entry ({entry}) to that"));
            }
            _ => {}
        }
    }
    let gone = listed.keys().filter(|name| !sizes.contains_key(*name));
    wrong.extend(gone.map(|name| format!("{name} is not there any more: remove its entry")));
    wrong
}

fn assert_clean(wrong: &[String], advice: &str) {
    assert!(wrong.is_empty(), "{advice}\n  {}", wrong.join("\n  "));
}

#[test]
fn files_and_functions_stay_small() {
    let text = fs::read_to_string(root().join("docs/size-ratchet.toml")).unwrap();
    let ratchet: Ratchet = toml::from_str(&text).unwrap();
    let sources = sources();
    let tests = test_files(&sources);
    let mut files = BTreeMap::new();
    let mut functions = BTreeMap::new();
    for source in sources.iter().filter(|source| !tests.contains(&source.path)) {
        files.insert(source.name.clone(), file_lines(source));
        let mut found = Functions::default();
        found.visit_file(&source.syntax);
        functions.extend(found.0.into_iter().map(|(name, size)| (format!("{}::{name}", source.name), size)));
    }
    let mut wrong = compare("file", &files, ratchet.max_file_lines, &ratchet.files);
    wrong.extend(compare("function", &functions, ratchet.max_function_lines, &ratchet.functions));
    assert_clean(&wrong, "docs/size-ratchet.toml:");
}

#[test]
fn the_ratchet_only_tightens() {
    let listed = BTreeMap::from([("a".to_owned(), 90), ("gone".to_owned(), 80)]);
    for (name, size, complaint) in [
        ("a", 91, "grew from 90 to 91"),
        ("a", 89, "lower its entry"),
        ("a", 70, "remove its entry (90)"),
        ("b", 71, "split it"),
    ] {
        let wrong = compare("file", &BTreeMap::from([(name.to_owned(), size)]), 70, &listed);
        assert!(wrong.iter().any(|text| text.contains(complaint)), "{name} {size}: {wrong:?}");
        assert!(wrong.iter().any(|text| text.starts_with("gone is not there")), "{wrong:?}");
    }
    let sizes = BTreeMap::from([("a".to_owned(), 90), ("b".to_owned(), 70), ("gone".to_owned(), 80)]);
    assert!(compare("file", &sizes, 70, &listed).is_empty());
}

#[test]
fn tests_do_not_count() {
    let text = "//! x\nfn a() {\n    b();\n}\nimpl X {\n    fn a() {}\n}\n#[cfg(test)]\nmod tests {\n    fn long() {\n\n    }\n}\n";
    let syntax = syn::parse_file(text).unwrap();
    let mut found = Functions::default();
    found.visit_file(&syntax);
    assert_eq!(found.0, BTreeMap::from([("a".to_owned(), 3)]));
    let source = Source { name: String::new(), path: PathBuf::new(), text: text.to_owned(), syntax };
    assert_eq!(file_lines(&source), 7);
}

#[test]
fn every_file_opens_with_its_purpose() {
    let bare = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    let bare: Vec<_> = bare.map(|source| source.name).collect();
    assert_clean(&bare, "these files do not begin with `//! ` and their purpose:");
}

#[test]
fn nothing_is_left_unfinished() {
    let mut found = Vec::new();
    for source in sources() {
        for (index, line) in source.text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if ["todo!", "unimplemented!", "dbg!"].iter().any(|word| code.contains(word)) {
                found.push(format!("{}:{}: {}", source.name, index + 1, line.trim()));
            }
        }
    }
    assert_clean(&found, "unfinished code or debugging aids:");
}

#[test]
fn core_has_no_clock_no_files_and_no_randomness() {
    let sources = sources();
    let tests = test_files(&sources);
    let mut found = Vec::new();
    let core = |source: &&Source| source.name.starts_with("crates/core/") && !tests.contains(&source.path);
    for source in sources.iter().filter(core) {
        for item in source.syntax.items.iter().filter(|item| !is_test(item)) {
            forbidden(item.to_token_stream(), &source.name, &mut found);
        }
    }
    assert_clean(&found, "time, randomness and I/O are arguments of core, not calls:");

    let mut planted = Vec::new();
    forbidden("fn f() { g(|| std::time::Instant::now()) }".parse().unwrap(), "x", &mut planted);
    assert_eq!(planted.len(), 1, "the search itself finds nothing");
}

fn forbidden(tokens: TokenStream, file: &str, found: &mut Vec<String>) {
    for token in tokens {
        match token {
            TokenTree::Group(group) => forbidden(group.stream(), file, found),
            TokenTree::Ident(ident) if NOT_IN_CORE.contains(&ident.to_string().as_str()) => {
                found.push(format!("{file}:{}: {ident}", ident.span().start().line));
            }
            _ => {}
        }
    }
}

#[test]
fn dependencies_point_one_way() {
    for (index, (name, may)) in ARROWS.iter().enumerate() {
        let earlier: Vec<_> = ARROWS.iter().take(index).map(|(earlier, _)| *earlier).collect();
        assert!(may.iter().all(|target| earlier.contains(target)), "{name}: a circle in the table");
    }
    let mut wrong = Vec::new();
    for member in fs::read_dir(root().join("crates")).unwrap() {
        let path = member.unwrap().path().join("Cargo.toml");
        let manifest: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
        let name = manifest["package"]["name"].as_str().unwrap();
        let Some((_, may)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            wrong.push(format!("{name} has no row in ARROWS"));
            continue;
        };
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let named = manifest.get(kind).and_then(toml::Value::as_table);
            let ours = named.into_iter().flat_map(toml::Table::keys).filter(|key| key.starts_with("blazedb"));
            wrong.extend(
                ours.filter(|key| !may.contains(&key.as_str())).map(|key| format!("{name} -> {key}")),
            );
        }
    }
    assert_clean(&wrong, "cli -> hub -> blazedb -> {store, transport} -> core, and sqlite below store; not:");
}

#[test]
fn core_keeps_the_thresholds_of_the_workspace() {
    let read =
        |path: &str| -> toml::Table { fs::read_to_string(root().join(path)).unwrap().parse().unwrap() };
    let (workspace, core) = (read("clippy.toml"), read("crates/core/clippy.toml"));
    for (key, value) in &workspace {
        assert_eq!(core.get(key), Some(value), "crates/core/clippy.toml: {key}");
    }
    assert!(core.contains_key("disallowed-methods"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    let root = root();
    let mut dirs = vec![root.join("docs")];
    let mut documents = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    let mut links = 0;
    let mut broken = Vec::new();
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            if !document.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", document.strip_prefix(&root).unwrap().display()));
            }
        }
    }
    assert!(links > 10, "the search found {links} links only");
    assert_clean(&broken, "links that lead nowhere:");
}
