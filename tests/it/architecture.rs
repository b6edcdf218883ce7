//! The shape of the code, held by a test: who may import whom, what the core must not name, sizes, the route table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Pure: no tasks, sockets, clocks, randomness or environment.
const CORE: [&str; 10] =
    ["auth", "chat", "event", "limits", "log", "prompts", "provider", "room", "sse", "surface"];
const IMPURE: [&str; 9] =
    ["tokio", "tokio_util", "axum", "reqwest", "hyper", "moka", "redis", "Instant", "SystemTime"];

/// A module, what of ours it may import, and the crates and clocks it must not name.
struct Rule {
    module: &'static str,
    may: &'static [&'static str],
    must_not: &'static [&'static str],
}

/// `core` stands for all of [`CORE`]. The environment is `config`'s alone.
const RULES: [Rule; 22] = [
    Rule { module: "event", may: &[], must_not: &IMPURE },
    Rule { module: "sse", may: &[], must_not: &IMPURE },
    Rule { module: "chat", may: &["event"], must_not: &IMPURE },
    Rule { module: "log", may: &["event"], must_not: &IMPURE },
    Rule { module: "provider", may: &["chat", "event", "log", "sse"], must_not: &IMPURE },
    Rule { module: "surface", may: &["chat", "event", "log", "sse"], must_not: &IMPURE },
    // Roles are `auth`'s.
    Rule { module: "room", may: &["auth", "chat", "event", "log"], must_not: &IMPURE },
    Rule { module: "prompts", may: &["chat", "event", "log"], must_not: &IMPURE },
    Rule { module: "auth", may: &["chat", "event", "log"], must_not: &IMPURE },
    Rule { module: "limits", may: &["chat", "event", "log"], must_not: &IMPURE },
    Rule { module: "store", may: &["event", "log"], must_not: &["axum", "reqwest"] },
    Rule { module: "metrics", may: &[], must_not: &["axum", "reqwest", "moka", "redis"] },
    Rule { module: "telemetry", may: &[], must_not: &["axum", "reqwest", "moka", "redis"] },
    Rule { module: "tls", may: &[], must_not: &["tokio", "axum", "hyper", "moka", "redis"] },
    Rule {
        module: "relay",
        may: &["chat", "event", "limits", "log", "provider", "surface", "sse", "store", "metrics", "tls"],
        must_not: &["axum", "hyper", "moka", "redis"],
    },
    Rule {
        module: "hub",
        may: &["core", "relay", "store", "metrics"],
        must_not: &["axum", "hyper", "reqwest", "moka", "redis"],
    },
    Rule {
        module: "http",
        may: &["core", "store", "metrics", "telemetry", "relay", "hub", "tls", "app"],
        must_not: &["reqwest", "moka", "redis"],
    },
    Rule {
        module: "app",
        may: &["core", "store", "metrics", "telemetry", "relay", "hub", "tls", "config"],
        must_not: &["axum", "hyper"],
    },
    Rule {
        module: "reload",
        may: &["auth", "app", "config", "tls"],
        must_not: &["axum", "hyper", "moka", "redis"],
    },
    // Only what composes the modules' options.
    Rule {
        module: "config",
        may: &["auth", "limits", "provider", "prompts", "store", "relay", "hub", "tls"],
        must_not: &["tokio", "axum", "hyper", "reqwest", "moka", "Instant", "SystemTime"],
    },
    Rule {
        module: "cli",
        may: &["core", "store", "app", "config", "http", "metrics", "reload", "telemetry", "relay", "tls"],
        must_not: &["moka", "redis"],
    },
    Rule { module: "main", may: &["cli"], must_not: &IMPURE },
];

const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 70;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below a folder, with their path from the package's root.
fn rust_files(folder: &str) -> BTreeMap<String, String> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let name = path.strip_prefix(root()).expect("below").to_string_lossy().into_owned();
                found.insert(name, std::fs::read_to_string(&path).expect("text"));
            }
        }
    }
    found
}

/// Without comments, and without the unit tests, which may use what they like.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The modules of ours that the code names: `crate::x` and `crate::{x, y::z}`.
fn imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut start) = (0, true);
            for part in group.split_inclusive(|c: char| "{},:".contains(c)) {
                let name = part.trim_end_matches(|c: char| "{},:".contains(c)).trim();
                if depth == 0 && start && !name.is_empty() {
                    found.insert(name.to_owned());
                }
                start = part.ends_with(',');
                depth += i32::from(part.ends_with('{')) - i32::from(part.ends_with('}'));
                if depth < 0 {
                    break;
                }
            }
        } else {
            found.extend(words(rest).next().map(str::to_owned));
        }
    }
    found
}

/// `src/http/sse.rs` belongs to `http`.
fn module_of(file: &str) -> &str {
    let rest = file.strip_prefix("src/").expect("a source file");
    rest.split('/').next().expect("a name").trim_end_matches(".rs")
}

#[test]
fn modules_import_only_what_they_may() {
    let mut wrong = Vec::new();
    for (file, text) in rust_files("src") {
        let module = module_of(&file);
        if module == "lib" {
            continue;
        }
        let Some(rule) = RULES.iter().find(|rule| rule.module == module) else {
            wrong.push(format!("{file}: the module \"{module}\" has no rule"));
            continue;
        };
        let code = code(&text);
        for import in imports(&code) {
            let allowed = import == module
                || rule.may.contains(&import.as_str())
                || (rule.may.contains(&"core") && CORE.contains(&import.as_str()));
            if !allowed {
                wrong.push(format!("{file} imports {import}"));
            }
        }
        for word in words(&code).collect::<BTreeSet<_>>() {
            if rule.must_not.contains(&word) {
                wrong.push(format!("{file} names {word}"));
            }
        }
        let environment = code.contains("std::env") || code.contains("env::var");
        if environment && module != "config" {
            wrong.push(format!("{file} reads the environment"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_is_about_a_module() {
    let modules: BTreeSet<String> = rust_files("src").keys().map(|file| module_of(file).to_owned()).collect();
    for rule in &RULES {
        assert!(modules.contains(rule.module), "{} is no module", rule.module);
        for name in rule.may {
            assert!(*name == "core" || modules.contains(*name), "{} may import {name}", rule.module);
        }
    }
}

#[test]
fn files_open_with_what_they_are_and_stay_short() {
    let mut wrong = Vec::new();
    for (file, text) in ["src", "tests", "examples", "benches", "fuzz/fuzz_targets"]
        .iter()
        .filter(|folder| root().join(folder).is_dir())
        .flat_map(|folder| rust_files(folder))
        .filter(|(file, _)| !file.contains("/node_modules/") && !file.contains("/target/"))
    {
        // cargo-fuzz's targets must begin with an attribute.
        let opening = text.strip_prefix("#![no_main]\n").unwrap_or(&text);
        if !opening.starts_with("//! ") {
            wrong.push(format!("{file} does not say what it is"));
        }
        let lines = text.lines().count();
        if lines > LONGEST_FILE {
            wrong.push(format!("{file} has {lines} lines"));
        }
        wrong.extend(long_functions(&text).map(|name| format!("{file}: {name}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Functions whose body is too long. The code is formatted, so a body ends where the function's indentation is back.
fn long_functions(text: &str) -> impl Iterator<Item = String> + '_ {
    let lines: Vec<&str> = text.lines().collect();
    let starts = |line: &str| {
        let before = line.trim_start().split("fn ").next().unwrap_or_default().to_owned();
        line.contains("fn ")
            && words(&before).all(|word| {
                ["pub", "crate", "super", "in", "async", "const", "unsafe", "extern"].contains(&word)
            })
    };
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| starts(line)) {
        let indent = line.len() - line.trim_start().len();
        let closing = format!("{}}}", " ".repeat(indent));
        let Some(opens) =
            lines[at..].iter().position(|line| line.ends_with('{') || line.ends_with([';', '}']))
        else {
            continue;
        };
        if !lines[at + opens].ends_with('{') {
            continue;
        }
        let body = lines[at + opens + 1..].iter().position(|line| *line == closing).unwrap_or(0);
        if body > LONGEST_FUNCTION {
            found.push(format!("{} has {body} lines", line.trim()));
        }
    }
    found.into_iter()
}

/// Follows `mod x;` from the crate's roots.
fn reach(file: &str, files: &BTreeMap<String, String>, reached: &mut BTreeSet<String>) {
    let Some(text) = files.get(file) else { return };
    if !reached.insert(file.to_owned()) {
        return;
    }
    let path = Path::new(file);
    let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
    let folder = path.parent().expect("a folder");
    let folder =
        if ["lib", "main", "mod"].contains(&name.as_str()) { folder.to_owned() } else { folder.join(name) };
    for line in text.lines().map(str::trim) {
        let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        if let Some(module) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            for place in [folder.join(format!("{module}.rs")), folder.join(module).join("mod.rs")] {
                reach(&place.to_string_lossy(), files, reached);
            }
        }
    }
}

#[test]
fn no_file_is_out_of_reach() {
    for (folder, roots) in
        [("src", vec!["src/lib.rs", "src/main.rs"]), ("tests/it", vec!["tests/it/main.rs"])]
    {
        let files = rust_files(folder);
        let mut reached = BTreeSet::new();
        for root in roots {
            reach(root, &files, &mut reached);
        }
        let all: BTreeSet<String> = files.into_keys().collect();
        assert_eq!(all.difference(&reached).collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

/// Path and methods of every route, read from the router's source.
fn routes() -> BTreeMap<String, BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("src/http/router.rs")).expect("the router");
    let code = code(&text).replace('\n', " ");
    let mut routes = BTreeMap::new();
    for part in code.split(".route(").skip(1) {
        let path = part.split('"').nth(1).expect("a path").to_owned();
        let mut depth = 1;
        let end = part.find(|c: char| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let handlers = &part[..end.expect("the call is closed")];
        let methods = ["get", "post", "delete", "put", "patch"].into_iter();
        let methods: BTreeSet<String> =
            methods.filter(|m| handlers.contains(&format!("{m}("))).map(str::to_uppercase).collect();
        assert!(!methods.is_empty(), "{path} has no method");
        routes.insert(path, methods);
    }
    assert!(routes.len() > 15, "only {} routes found", routes.len());
    routes
}

#[test]
fn the_readme_names_every_route() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let mut table: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in readme.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let methods: BTreeSet<String> = words(cells[1]).map(str::to_owned).collect();
        let known = |m: &String| ["GET", "POST", "DELETE", "PUT", "PATCH"].contains(&m.as_str());
        if methods.is_empty() || !methods.iter().all(known) {
            continue;
        }
        for path in cells[2].split('`').filter(|part| part.starts_with('/')) {
            table.entry(path.to_owned()).or_default().extend(methods.clone());
        }
    }
    assert_eq!(table, routes());
}

#[test]
fn the_api_description_names_every_route() {
    let text = std::fs::read_to_string(root().join("src/http/openapi.json")).expect("openapi.json");
    let description: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let paths = description["paths"].as_object().expect("openapi.json has paths");
    let known = |m: &str| ["get", "post", "delete", "put", "patch"].contains(&m);
    let described: BTreeMap<String, BTreeSet<String>> = paths
        .iter()
        .map(|(path, item)| {
            let methods = item.as_object().expect("an object").keys().filter(|m| known(m));
            (path.clone(), methods.map(|m| m.to_uppercase()).collect())
        })
        .collect();
    assert_eq!(described, routes());
}
