//! YAML as a tree that remembers where everything was written. Duplicate keys are problems, anchors and merge keys (`<<`) are
//! resolved, depth and size are bounded. Knows nothing of what the keys mean.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::problem::Report;
use super::{Position, syntax};

/// Deepest nesting; AIM's own examples need 9, and the tree is walked recursively.
const DEEPEST: usize = 64;
/// Most nodes of one file with its aliases spelt out: 20 000 spaces fit, a "billion laughs" file does not.
const MOST_NODES: usize = 1_000_000;
/// Largest file, in bytes.
const LARGEST_FILE: usize = 16 * 1024 * 1024;

/// Where a node begins. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub file: Arc<PathBuf>,
    pub line: usize,
    pub column: usize,
}

impl Spot {
    pub(super) fn position(&self) -> Position {
        Position { file: (*self.file).clone(), line: self.line, column: self.column }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub spot: Spot,
    pub value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Scalar(Scalar),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub text: String,
    /// Written without quotes: may be a number or a boolean.
    pub plain: bool,
    /// `${NAME}` as written, when the text came from the environment: such a text is never repeated in a message.
    pub variable: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub spot: Spot,
    pub value: Node,
}

impl Node {
    fn new(spot: Spot, value: Value) -> Self {
        Self { spot, value }
    }

    /// Nodes in here, and how deep they go.
    fn measure(&self) -> (usize, usize) {
        let children: Vec<(usize, usize)> = match &self.value {
            Value::Null | Value::Scalar(_) => return (1, 1),
            Value::Sequence(items) => items.iter().map(Self::measure).collect(),
            Value::Mapping(entries) => entries.iter().map(|entry| entry.value.measure()).collect(),
        };
        children.iter().fold((1, 1), |(count, depth), child| (count + child.0, depth.max(child.1 + 1)))
    }
}

/// Reads one file's text. `None` when it has no usable content; the reasons are in `report`.
pub(super) fn parse(file: &Arc<PathBuf>, text: &str, report: &Report) -> Option<Node> {
    let start = Spot { file: Arc::clone(file), line: 1, column: 1 };
    if text.len() > LARGEST_FILE {
        report.error(Some(&start), "", format!("this file is larger than {} MiB", LARGEST_FILE >> 20));
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        report,
        start,
        open: Vec::new(),
        anchors: BTreeMap::new(),
        root: None,
        documents: 0,
        budget: MOST_NODES,
    };
    let mut parser = Parser::new(StrInput::new(text));
    while let Some(event) = parser.next_event() {
        match event {
            Ok((event, span)) => {
                builder.take(event, span)?;
            }
            Err(error) => {
                syntax::explain(&error, text, file, report);
                return None;
            }
        }
    }
    Some(builder.root.unwrap_or_else(|| Node::new(builder.start, Value::Mapping(Vec::new()))))
}

/// A collection whose end has not been seen.
struct Open {
    spot: Spot,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    Sequence(Vec<Node>),
    Mapping { entries: Vec<Entry>, key: Option<(String, Spot, bool)>, merged: Vec<Node> },
}

struct Builder<'r> {
    report: &'r Report,
    start: Spot,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    root: Option<Node>,
    documents: usize,
    budget: usize,
}

impl Builder<'_> {
    /// `None`: give up on the file.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let spot = Spot { file: Arc::clone(&self.start.file), line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Some(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return self.refuse(&spot, "a second document begins here (`---`): give usher one document a file");
                }
                Some(())
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return self.refuse(&spot, "this alias (`*name`) stands inside the very value it names");
                };
                let (count, depth) = node.measure();
                self.spend(count, depth, &spot)?;
                self.place(node, 0)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(1, 1, &spot)?;
                let plain = style == ScalarStyle::Plain && !is_string_tag(tag.as_deref());
                self.check_tag(tag.as_deref(), &spot);
                let value = if plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    Value::Null
                } else {
                    Value::Scalar(Scalar { text: text.into_owned(), plain, variable: None })
                };
                self.place(Node::new(spot, value), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), &spot);
                self.begin(spot, anchor, Inside::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), &spot);
                let inside = Inside::Mapping { entries: Vec::new(), key: None, merged: Vec::new() };
                self.begin(spot, anchor, inside)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn refuse(&self, spot: &Spot, message: &str) -> Option<()> {
        self.report.error(Some(spot), "", message);
        None
    }

    fn check_tag(&self, tag: Option<&Tag>, spot: &Spot) {
        if tag.is_some_and(|tag| !tag.is_yaml_core_schema()) {
            self.report.error(Some(spot), "", "a tag (`!name`) means nothing here: remove it");
        }
    }

    fn spend(&mut self, nodes: usize, depth: usize, spot: &Spot) -> Option<()> {
        if self.open.len() + depth > DEEPEST {
            return self
                .refuse(spot, &format!("nested more than {DEEPEST} levels deep: nothing in a configuration is"));
        }
        let Some(left) = self.budget.checked_sub(nodes) else {
            return self.refuse(
                spot,
                &format!("more than {MOST_NODES} values, aliases counted: is an alias repeated too often?"),
            );
        };
        self.budget = left;
        Some(())
    }

    fn begin(&mut self, spot: Spot, anchor: usize, inside: Inside) -> Option<()> {
        self.spend(1, 1, &spot)?;
        self.open.push(Open { spot, anchor, inside });
        Some(())
    }

    fn end(&mut self) -> Option<()> {
        let open = self.open.pop()?;
        let value = match open.inside {
            Inside::Sequence(items) => Value::Sequence(items),
            Inside::Mapping { mut entries, merged, .. } => {
                for node in merged {
                    self.merge_key(&mut entries, node);
                }
                Value::Mapping(entries)
            }
        };
        self.place(Node::new(open.spot, value), open.anchor)
    }

    /// `<<: *base`: keys of `node` that the mapping does not have itself.
    fn merge_key(&self, entries: &mut Vec<Entry>, node: Node) {
        match node.value {
            Value::Mapping(inherited) => {
                for entry in inherited {
                    if entries.iter().all(|known| known.key != entry.key) {
                        entries.push(entry);
                    }
                }
            }
            Value::Sequence(nodes) if nodes.iter().all(|node| matches!(node.value, Value::Mapping(_))) => {
                for node in nodes {
                    self.merge_key(entries, node);
                }
            }
            Value::Null => {}
            Value::Scalar(_) | Value::Sequence(_) => {
                self.report.error(Some(&node.spot), "<<", "a merge key takes an alias of a mapping: `<<: *name`");
            }
        }
    }

    fn place(&mut self, node: Node, anchor: usize) -> Option<()> {
        if anchor > 0 {
            let (count, _) = node.measure();
            self.spend(count, 0, &node.spot)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        match &mut parent.inside {
            Inside::Sequence(items) => items.push(node),
            Inside::Mapping { entries, key, merged } => match key.take() {
                None => match node.value {
                    Value::Scalar(scalar) => *key = Some((scalar.text, node.spot, scalar.plain)),
                    Value::Null | Value::Sequence(_) | Value::Mapping(_) => {
                        let message = "a key must be a word: is a quote, or the space after a colon, missing?";
                        self.report.error(Some(&node.spot), "", message);
                        return None;
                    }
                },
                Some((name, _, true)) if name == "<<" => merged.push(node),
                Some((name, spot, _)) => {
                    if let Some(first) = entries.iter().find(|entry| entry.key == name) {
                        let message = format!("given twice; the first is on line {}: keep one", first.spot.line);
                        self.report.error(Some(&spot), &name, message);
                    } else {
                        entries.push(Entry { key: name, spot, value: node });
                    }
                }
            },
        }
        Some(())
    }
}

fn is_string_tag(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.is_yaml_core_schema() && tag.suffix == "str")
}
