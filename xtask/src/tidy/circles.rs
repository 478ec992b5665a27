//! The circle rule: no two files of a crate import each other, directly or in a round.
//!
//! A file imports another if it names it in a path (`crate::`, `super::`, `self::`, or a child
//! module's name), in a `use` or anywhere else. A name that a file hands on with `pub use` counts
//! as its origin's. A child module may name its parents: it is a part of them and sees their
//! private fields. Test code does not count.

use std::collections::{BTreeMap, BTreeSet};

use super::rust::product_tokens;

/// The files of one crate's `src` and the imports between them.
pub(super) struct Imports {
    /// Path below `src` by module path; the root's is empty.
    files: BTreeMap<Vec<String>, String>,
    tokens: BTreeMap<Vec<String>, Vec<String>>,
}

type Module = Vec<String>;

impl Imports {
    /// Takes (path below `src`, text) of each file.
    pub(super) fn new<'a>(sources: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut files = BTreeMap::new();
        let mut tokens = BTreeMap::new();
        for (path, text) in sources {
            let Some(stem) = path.strip_suffix(".rs") else { continue };
            let module: Module = match stem {
                "lib" | "main" => Vec::new(),
                _ => stem.split('/').map(str::to_owned).collect(),
            };
            if stem == "main" && files.contains_key(&module) {
                continue;
            }
            let found = product_tokens(text).into_iter().map(str::to_owned).collect();
            files.insert(module.clone(), path.to_owned());
            tokens.insert(module, found);
        }
        let mut imports = Self { files, tokens };
        imports.keep_declared();
        imports
    }

    /// Forgets the files that no product file declares with `mod`: they are test code.
    fn keep_declared(&mut self) {
        let mut declared = BTreeSet::from([Module::new()]);
        let mut waiting = vec![Module::new()];
        while let Some(module) = waiting.pop() {
            let Some(tokens) = self.tokens.get(&module) else { continue };
            for window in tokens.windows(3).filter(|w| w[0] == "mod" && w[2] == ";") {
                let child: Module = module.iter().chain([&window[1]]).cloned().collect();
                if declared.insert(child.clone()) {
                    waiting.push(child);
                }
            }
        }
        self.files.retain(|module, _| declared.contains(module));
        self.tokens.retain(|module, _| declared.contains(module));
    }

    /// Whether the file at a path below `src` is part of the product.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.files.values().any(|file| file == path)
    }

    /// The circles: for each the paths of its files, in order.
    pub(super) fn circles(&self) -> Vec<Vec<String>> {
        let reached: BTreeMap<&Module, BTreeSet<Module>> =
            self.files.keys().map(|module| (module, self.reachable(module))).collect();
        let mut circles = BTreeSet::new();
        for (module, targets) in &reached {
            let mut circle: Vec<String> = targets
                .iter()
                .filter(|target| reached.get(target).is_some_and(|back| back.contains(*module)))
                .map(|target| self.files[target].clone())
                .collect();
            circle.sort();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        circles.into_iter().collect()
    }

    fn reachable(&self, from: &Module) -> BTreeSet<Module> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![from.clone()];
        while let Some(module) = waiting.pop() {
            for target in self.imports_of(&module) {
                if found.insert(target.clone()) {
                    waiting.push(target);
                }
            }
        }
        found
    }

    /// The files that a file imports, its own parents left out.
    fn imports_of(&self, module: &Module) -> BTreeSet<Module> {
        let mut targets: BTreeSet<Module> =
            self.paths(module).iter().map(|path| self.origin(path, 0)).collect();
        targets.retain(|target| !module.starts_with(target));
        targets
    }

    /// Every path in a file that begins at a module of this crate, from the root.
    fn paths(&self, module: &Module) -> Vec<Module> {
        let Some(tokens) = self.tokens.get(module) else { return Vec::new() };
        let mut found = Vec::new();
        for at in 0..tokens.len() {
            let is_start = at == 0 || tokens[at - 1] != "::";
            let is_path = tokens.get(at + 1).is_some_and(|next| next == "::");
            let start = self.start(module, &tokens[at]).filter(|_| is_start && is_path);
            if let Some(start) = start {
                expand(tokens, at + 2, &start, &mut found);
            }
        }
        found
    }

    /// The module that the first word of a path names in a file; none if it is another crate's.
    fn start(&self, module: &Module, word: &str) -> Option<Module> {
        match word {
            "crate" => Some(Module::new()),
            "self" => Some(module.clone()),
            "super" => Some(module[..module.len().saturating_sub(1)].to_vec()),
            _ => {
                let child: Module = module.iter().cloned().chain([word.to_owned()]).collect();
                self.files.contains_key(&child).then_some(child)
            }
        }
    }

    /// The file that defines what a path names.
    fn origin(&self, path: &Module, depth: usize) -> Module {
        let len = (0..=path.len()).rev().find(|len| self.files.contains_key(&path[..*len]));
        let (file, rest) = path.split_at(len.unwrap_or(0));
        let Some(name) = rest.first().filter(|_| depth < 8) else { return file.to_vec() };
        match self.handed_on(&file.to_vec(), name) {
            Some(path) => self.origin(&path, depth + 1),
            None => file.to_vec(),
        }
    }

    /// The path that a file's `pub use` gives `name` from.
    fn handed_on(&self, module: &Module, name: &str) -> Option<Module> {
        let tokens = self.tokens.get(module)?;
        let mut found = Vec::new();
        for at in 1..tokens.len() {
            let is_public = tokens[at - 1] == "pub" || tokens[at - 1] == ")";
            if tokens[at] == "use" && is_public {
                let Some(word) = tokens.get(at + 1) else { continue };
                if let Some(start) = self.start(module, word) {
                    expand(tokens, at + 3, &start, &mut found);
                }
            }
        }
        found.into_iter().find(|path| path.last().is_some_and(|last| last == name))
    }
}

/// Adds the paths that begin with `start` and go on at a token: one, or all of a `{...}` list.
fn expand(tokens: &[String], at: usize, start: &Module, found: &mut Vec<Module>) -> usize {
    let Some(token) = tokens.get(at) else { return at };
    if token != "{" {
        let mut path = start.clone();
        match token.as_str() {
            "super" => drop(path.pop()),
            "self" => {}
            _ => path.push(token.clone()),
        }
        if tokens.get(at + 1).is_some_and(|next| next == "::") {
            return expand(tokens, at + 2, &path, found);
        }
        found.push(path);
        return at + 1;
    }
    let mut at = at + 1;
    while tokens.get(at).is_some_and(|token| token != "}") {
        at = expand(tokens, at, start, found);
        while tokens.get(at).is_some_and(|token| token != "," && token != "}") {
            at += 1;
        }
        at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::Imports;

    fn circles(sources: &[(&str, &str)]) -> Vec<Vec<String>> {
        Imports::new(sources.iter().copied()).circles()
    }

    #[test]
    fn a_round_over_three_files_is_found_and_a_line_is_not() {
        let root = ("lib.rs", "mod a; mod b; mod c; mod d;");
        let a = ("a.rs", "use crate::{b::{self, B}, d};");
        let b = ("b.rs", "fn f() { super::c::g() }");
        let d = ("d.rs", "");
        assert_eq!(circles(&[root, a, b, ("c.rs", "use crate::d::D;"), d]), [[""; 0]; 0]);
        let found = circles(&[root, a, b, ("c.rs", "use crate::a::A;"), d]);
        assert_eq!(found, [["a.rs", "b.rs", "c.rs"]]);
    }

    #[test]
    fn a_name_that_is_handed_on_counts_as_its_origins() {
        let root = ("lib.rs", "mod a; mod b; pub use a::A; pub(crate) use b::B;");
        let found = circles(&[root, ("a.rs", "use crate::B;"), ("b.rs", "use crate::A;")]);
        assert_eq!(found, [["a.rs", "b.rs"]]);
    }

    #[test]
    fn a_child_may_name_its_parent_and_tests_may_name_anything() {
        let root = ("lib.rs", "mod a; #[cfg(test)] mod t;");
        let a = ("a.rs", "mod b; use self::b::B; #[cfg(test)] mod tests { use crate::t; }");
        let found = circles(&[root, a, ("a/b.rs", "use super::A;"), ("t.rs", "use crate::a::A;")]);
        assert_eq!(found, [[""; 0]; 0]);
    }
}
