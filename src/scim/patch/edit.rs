//! One operation on one attribute of a document, below the choice of the attribute.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::Verb;
use crate::scim::distinct::not_among;
use crate::scim::document::{MOST_VALUES, element, is_primary, too_many, value};
use crate::scim::evaluate::{Compiled, compile_inside};
use crate::scim::filter::{Filter, Literal, Op};
use crate::scim::schema::Attribute;
use crate::scim::{Document, Error, fold};

/// What is to be done where.
pub struct Edit<'e> {
    pub verb: Verb,
    pub attribute: &'static Attribute,
    /// Of multi-valued attributes: the elements meant.
    pub filter: Option<&'e Filter>,
    pub sub: Option<&'static Attribute>,
}

/// Does it. A value of nothing (`null`, `""`, `[]`) removes. On an error the attribute may be gone: the document is to be thrown away.
///
/// # Errors
/// `invalidValue`, `invalidPath` for a filter that does not fit, `noTarget` where no element can be made from the filter.
pub fn edit(holder: &mut Document, edit: &Edit<'_>, given: &Value) -> Result<(), Error> {
    if edit.attribute.many {
        return edit_many(holder, edit, given);
    }
    let name = edit.attribute.name;
    match (edit.verb, edit.sub) {
        (Verb::Remove, None) => {
            holder.remove(name);
        }
        (Verb::Remove, Some(sub)) => set_part(holder, name, sub, None),
        (Verb::Add | Verb::Replace, Some(sub)) => {
            let part = value(sub, given)?;
            set_part(holder, name, sub, part);
        }
        (Verb::Add | Verb::Replace, None) if edit.attribute.is_complex() => merge(holder, edit.attribute, given)?,
        (Verb::Add | Verb::Replace, None) => match value(edit.attribute, given)? {
            Some(value) => {
                holder.insert(name.to_owned(), value);
            }
            None => {
                holder.remove(name);
            }
        },
    }
    Ok(())
}

fn set_part(holder: &mut Document, name: &str, sub: &Attribute, part: Option<Value>) {
    let mut whole = match holder.remove(name) {
        Some(Value::Object(whole)) => whole,
        _ => Map::new(),
    };
    set(&mut whole, sub, part);
    if !whole.is_empty() {
        holder.insert(name.to_owned(), Value::Object(whole));
    }
}

fn set(whole: &mut Map<String, Value>, sub: &Attribute, part: Option<Value>) {
    match part {
        // Another value is somewhere else.
        Some(part) => {
            let before = whole.insert(sub.name.to_owned(), part);
            if sub.name == "value" && before.as_ref() != whole.get("value") {
                whole.remove("$ref");
            }
        }
        None => {
            whole.remove(sub.name);
        }
    }
}

/// Parts that are not given stay (RFC 7644 section 3.5.2.3).
fn merge(holder: &mut Document, attribute: &'static Attribute, given: &Value) -> Result<(), Error> {
    let Some(normal) = value(attribute, given)? else {
        // Nothing, or nothing but nulls: those parts go.
        let Value::Object(parts) = given else {
            holder.remove(attribute.name);
            return Ok(());
        };
        for sub in parts.keys().filter_map(|key| attribute.sub(key)) {
            set_part(holder, attribute.name, sub, None);
        }
        return Ok(());
    };
    let nothing = Map::new();
    let normal = normal.as_object().unwrap_or(&nothing);
    if let Value::Object(parts) = given {
        for sub in parts.keys().filter_map(|key| attribute.sub(key)).filter(|sub| !normal.contains_key(sub.name)) {
            set_part(holder, attribute.name, sub, None);
        }
    }
    // `value` before `$ref`, which belongs to it.
    for sub in attribute.sub {
        if let Some(part) = normal.get(sub.name) {
            set_part(holder, attribute.name, sub, Some(part.clone()));
        }
    }
    Ok(())
}

fn edit_many(holder: &mut Document, edit: &Edit<'_>, given: &Value) -> Result<(), Error> {
    let name = edit.attribute.name;
    let mut elements = match holder.remove(name) {
        Some(Value::Array(elements)) => elements,
        _ => Vec::new(),
    };
    let before = elements.len();
    if edit.filter.is_none() && edit.sub.is_none() {
        edit_whole(&mut elements, edit, given)?;
    } else {
        edit_chosen(&mut elements, edit, given)?;
    }
    // Who has more from before may keep them.
    if elements.len() > before.max(MOST_VALUES) {
        return Err(too_many(edit.attribute));
    }
    if !elements.is_empty() {
        holder.insert(name.to_owned(), Value::Array(elements));
    }
    Ok(())
}

fn edit_whole(elements: &mut Vec<Value>, edit: &Edit<'_>, given: &Value) -> Result<(), Error> {
    let given = value(edit.attribute, given)?;
    match (edit.verb, given) {
        (Verb::Remove | Verb::Replace, None) => elements.clear(),
        (Verb::Add, None) => {}
        (Verb::Replace, Some(Value::Array(new))) => *elements = new,
        (Verb::Add, Some(Value::Array(new))) => {
            let mut new = not_among(elements, new);
            if new.iter().any(is_primary) {
                demote(elements, None);
                // Without its mark a value may be one of the new.
                new = not_among(elements, new);
            }
            elements.extend(new);
        }
        (Verb::Remove, Some(Value::Array(gone))) => {
            let text = |element: &Value| text_of(edit.attribute, element);
            let texts: BTreeSet<String> = gone.iter().filter_map(text).collect();
            elements.retain(|element| text(element).is_none_or(|text| !texts.contains(&text)));
            let whole: Vec<Value> = gone.into_iter().filter(|gone| text(gone).is_none()).collect();
            if !whole.is_empty() {
                *elements = not_among(&whole, std::mem::take(elements));
            }
        }
        (_, Some(_)) => return Err(Error::invalid_value(format!("{} must be a list", edit.attribute.name))),
    }
    Ok(())
}

/// What an element is known by: its value. One without is known by all of it.
fn text_of(attribute: &Attribute, element: &Value) -> Option<String> {
    let text = element.get("value").and_then(Value::as_str)?;
    let exact = attribute.sub("value").is_some_and(|sub| sub.case_exact);
    Some(if exact { text.to_owned() } else { fold(text) })
}

/// Takes the mark off every element but `keep`: there is one primary at most.
fn demote(elements: &mut [Value], keep: Option<usize>) {
    for (at, element) in elements.iter_mut().enumerate() {
        if Some(at) != keep && is_primary(element) {
            element["primary"] = false.into();
        }
    }
}

fn edit_chosen(elements: &mut Vec<Value>, edit: &Edit<'_>, given: &Value) -> Result<(), Error> {
    let compiled = match edit.filter {
        Some(filter) => {
            let compiled = compile_inside(edit.attribute, filter);
            Some(compiled.map_err(|error| Error::invalid_path(error.detail))?)
        }
        None => None,
    };
    let fits = |element: &Value| compiled.as_ref().is_none_or(|compiled: &Compiled| compiled.fits_element(element));
    let chosen: Vec<usize> = (0..elements.len()).filter(|at| fits(&elements[*at])).collect();
    let part = match (edit.verb, edit.sub) {
        (Verb::Remove, _) => None,
        (Verb::Add | Verb::Replace, Some(sub)) => value(sub, given)?,
        (Verb::Add | Verb::Replace, None) => {
            let given = match given {
                Value::Array(items) if items.len() == 1 => &items[0],
                other => other,
            };
            element(edit.attribute, given)?
        }
    };
    match (part, edit.sub) {
        (None, None) => elements.retain(|element| !fits(element)),
        (None, Some(sub)) => remove_part(elements, &chosen, sub),
        (Some(part), sub) => {
            if chosen.is_empty() {
                return make(elements, edit, part);
            }
            for at in &chosen {
                change(&mut elements[*at], edit.verb, sub, &part);
            }
            if let Some(last) = chosen.iter().rev().find(|at| is_primary(&elements[**at])).copied()
                && (is_primary(&part_as_element(sub, &part)))
            {
                demote(elements, Some(last));
            }
        }
    }
    Ok(())
}

fn part_as_element(sub: Option<&Attribute>, part: &Value) -> Value {
    match sub {
        Some(sub) => serde_json::json!({ sub.name: part }),
        None => part.clone(),
    }
}

fn change(element: &mut Value, verb: Verb, sub: Option<&Attribute>, part: &Value) {
    match (sub, &mut *element, part) {
        (Some(sub), Value::Object(whole), part) => set(whole, sub, Some(part.clone())),
        (None, Value::Object(whole), Value::Object(parts)) if verb == Verb::Add => {
            whole.extend(parts.clone());
        }
        (None, whole, part) => *whole = part.clone(),
        (Some(_), _, _) => {}
    }
}

/// An element without the value it was about is none. `chosen` is in order.
fn remove_part(elements: &mut Vec<Value>, chosen: &[usize], sub: &Attribute) {
    for at in chosen {
        if let Value::Object(whole) = &mut elements[*at] {
            whole.remove(sub.name);
        }
    }
    let mut at = 0;
    elements.retain(|element| {
        at += 1;
        let rest = element.as_object().map(|whole| whole.keys().any(|key| key != "type" && key != "primary"));
        chosen.binary_search(&(at - 1)).is_err() || sub.name == "type" || sub.name == "primary" || rest == Some(true)
    });
    elements.retain(|element| element.as_object().is_none_or(|whole| !whole.is_empty()));
}

/// Makes the element that the filter describes: Entra ID replaces the work address of somebody who has none.
fn make(elements: &mut Vec<Value>, edit: &Edit<'_>, part: Value) -> Result<(), Error> {
    let mut made = Map::new();
    if let Some(filter) = edit.filter
        && !describe(edit.attribute, filter, &mut made)?
    {
        return Err(Error::no_target(format!("no value of {} fits the filter", edit.attribute.name)));
    }
    match (edit.sub, part) {
        (Some(sub), part) => {
            made.insert(sub.name.to_owned(), part);
        }
        (None, Value::Object(parts)) => made.extend(parts),
        (None, _) => return Err(Error::invalid_value(format!("a value of {} must be an object", edit.attribute.name))),
    }
    let made = Value::Object(made);
    if is_primary(&made) {
        demote(elements, None);
    }
    elements.push(made);
    Ok(())
}

/// Collects what `eq` and `and` say of an element; `false` if the filter says more than that.
fn describe(attribute: &Attribute, filter: &Filter, made: &mut Map<String, Value>) -> Result<bool, Error> {
    match filter {
        Filter::And(parts) => {
            for part in parts {
                if !describe(attribute, part, made)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Filter::Test(test) if test.op == Op::Eq => {
            let Some(sub) = attribute.sub(&test.path) else { return Ok(false) };
            let given = match &test.value {
                Literal::Text(word) | Literal::Bare(word) => Value::from(word.as_str()),
                Literal::Bool(flag) => Value::from(*flag),
                Literal::Null => return Ok(true),
            };
            if let Some(value) = value(sub, &given)? {
                made.insert(sub.name.to_owned(), value);
            }
            Ok(true)
        }
        Filter::Or(_) | Filter::Not(_) | Filter::Test(_) | Filter::Element { .. } => Ok(false),
    }
}
