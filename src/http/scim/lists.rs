//! Lists and searches: by index and by cursor, filtered, sorted. The database pages where it can; otherwise resources are looked at in
//! slices, and only the places of many are kept.

use serde_json::Value;

use super::render::{linked, plain};
use super::{Answer, Call, Refusal, Server, render};
use crate::clock;
use crate::scim::access::Access;
use crate::scim::evaluate::{Compiled, Members, compile};
use crate::scim::list::{Cursor, Page, Paging, Query, Sort, compare, sort_key, sort_place};
use crate::scim::projection::Projection;
use crate::scim::{Document, Error, Kind};
use crate::store::scim::{Resource, Resources, Slice};

/// Resources looked at in one go.
const SLICE: i64 = 500;
/// So few are not read again when they are shown.
const MOST_KNOWN: usize = 4;

/// A resource that fits.
#[derive(Debug)]
struct Match {
    sort_key: Option<String>,
    pk: i64,
    /// Itself, where few were looked at.
    known: Option<Box<Resource>>,
}

impl Server {
    pub(super) async fn list(
        &self,
        call: &Call,
        kind: Kind,
        parameters: &[(String, String)],
    ) -> Result<Answer, Refusal> {
        let query = Query::from_parameters(parameters, clock::now().0)?;
        self.found(call, &[kind], &query).await
    }

    pub(super) async fn search(&self, call: &Call, kind: Option<Kind>, body: &Value) -> Result<Answer, Refusal> {
        let query = Query::from_search(body, clock::now().0)?;
        let may_be_read = |kind: &Kind| call.roles.allow(Access::Read, *kind);
        let kinds = kind.map_or_else(|| Kind::ALL.into_iter().filter(may_be_read).collect(), |kind| vec![kind]);
        self.found(call, &kinds, &query).await
    }

    async fn found(&self, call: &Call, kinds: &[Kind], query: &Query) -> Result<Answer, Refusal> {
        let resources = self.resources()?;
        let page = match kinds {
            [kind] if query.filter.is_none() && query.sort.is_none() => paged(&resources, call, *kind, query).await?,
            _ => picked(&resources, call, kinds, query).await?,
        };
        Ok(Answer { status: 200, body: Some(page.body()), ..Answer::default() })
    }
}

fn projection(kind: Kind, query: &Query) -> Projection {
    Projection::new(kind, query.attributes.as_deref(), query.excluded.as_deref())
}

/// Everything of a kind, in order of creation: the database knows the page.
async fn paged(resources: &Resources, call: &Call, kind: Kind, query: &Query) -> Result<Page, Refusal> {
    let (slice, start) = match query.paging {
        Paging::Index(start) => (Slice::Offset(start - 1), Some(start)),
        Paging::Cursor(None) => (Slice::After(0), None),
        Paging::Cursor(Some(Cursor::After(pk))) => (Slice::After(pk), None),
        Paging::Cursor(Some(Cursor::Before(pk))) => (Slice::Before(pk), None),
        Paging::Cursor(Some(Cursor::Offset(skip))) => (Slice::Offset(skip), None),
    };
    // One more than asked for tells whether there is another page.
    let limit = if query.count == 0 { 0 } else { query.count + 1 };
    let (total, mut found) = resources.page(kind, slice, limit).await?;
    if query.count == 0 {
        return Ok(Page { total, start, ..Page::default() });
    }
    let more = i64::try_from(found.len()).unwrap_or(i64::MAX) > query.count;
    let backwards = matches!(slice, Slice::Before(_));
    if more && backwards {
        found.remove(0);
    } else if more {
        found.pop();
    }
    let mut page = Page { total, start, ..Page::default() };
    if start.is_none()
        && let (Some(first), Some(last)) = (found.first(), found.last())
    {
        let now = clock::now().0;
        let is_first = matches!(query.paging, Paging::Cursor(None));
        page.next = (more || backwards).then(|| Cursor::After(last.pk).encode(&query.digest, now));
        page.previous =
            (if backwards { more } else { !is_first }).then(|| Cursor::Before(first.pk).encode(&query.digest, now));
    }
    let projection = projection(kind, query);
    let found = linked(resources, call, found, &projection).await?;
    page.resources = found.into_iter().map(|found| found.shown(&call.base, &projection)).collect();
    Ok(page)
}

/// What fits a filter, of one kind or several, perhaps sorted.
async fn picked(resources: &Resources, call: &Call, kinds: &[Kind], query: &Query) -> Result<Page, Refusal> {
    let mut matches: Vec<Match> = Vec::new();
    let mut refused = None;
    let mut understood = false;
    if let Some(sort) = &query.sort
        && !kinds.iter().any(|kind| sort_place(*kind, &sort.by).is_some())
    {
        return Err(Error::invalid_path("sortBy names no attribute").into());
    }
    for kind in kinds {
        match query.filter.as_ref().map(|filter| compile(*kind, filter)).transpose() {
            Ok(filter) => {
                understood = true;
                matching(resources, call, *kind, (filter.as_ref(), query.sort.as_ref()), &mut matches).await?;
            }
            // What one kind has not got, another may have.
            Err(error) => refused = Some(error),
        }
    }
    if let Some(error) = refused.filter(|_| !understood) {
        return Err(error.into());
    }
    match &query.sort {
        Some(sort) => matches.sort_by(|one, other| {
            compare(one.sort_key.as_ref(), other.sort_key.as_ref(), sort.descending).then(one.pk.cmp(&other.pk))
        }),
        None => matches.sort_by_key(|found| found.pk),
    }
    let total = matches.len();
    let count = usize::try_from(query.count).unwrap_or_default();
    let whole_number = |number: i64| usize::try_from(number).unwrap_or(usize::MAX).min(total);
    let (begin, end) = match query.paging {
        Paging::Index(start) => (whole_number(start - 1), None),
        Paging::Cursor(None) => (0, None),
        Paging::Cursor(Some(Cursor::Offset(skip))) => (whole_number(skip), None),
        Paging::Cursor(Some(Cursor::After(pk))) => (matches.partition_point(|found| found.pk <= pk), None),
        Paging::Cursor(Some(Cursor::Before(pk))) => {
            let end = matches.partition_point(|found| found.pk < pk);
            (end.saturating_sub(count), Some(end))
        }
    };
    let end = end.unwrap_or(begin.saturating_add(count)).min(total);
    let mut page = Page { total: i64::try_from(total).unwrap_or(i64::MAX), ..Page::default() };
    match query.paging {
        Paging::Index(start) => page.start = Some(start),
        Paging::Cursor(_) if count > 0 => cursors(&mut page, &matches, (begin, end), query),
        Paging::Cursor(_) => {}
    }
    page.resources = in_order(resources, call, matches.drain(begin..end).collect(), query).await?;
    Ok(page)
}

fn cursors(page: &mut Page, matches: &[Match], (begin, end): (usize, usize), query: &Query) {
    let number = |place: usize| i64::try_from(place).unwrap_or(i64::MAX);
    let now = clock::now().0;
    let sorted = query.sort.is_some();
    if end < matches.len() && end > begin {
        let next = if sorted { Cursor::Offset(number(end)) } else { Cursor::After(matches[end - 1].pk) };
        page.next = Some(next.encode(&query.digest, now));
    }
    if begin > 0 && begin < matches.len() {
        let back = number(begin).saturating_sub(query.count).max(0);
        let previous = if sorted { Cursor::Offset(back) } else { Cursor::Before(matches[begin].pk) };
        page.previous = Some(previous.encode(&query.digest, now));
    }
}

/// The resources of a page, in its order.
async fn in_order(resources: &Resources, call: &Call, page: Vec<Match>, query: &Query) -> Result<Vec<Value>, Refusal> {
    let pks: Vec<i64> = page.iter().map(|found| found.pk).collect();
    let unread: Vec<i64> = page.iter().filter(|found| found.known.is_none()).map(|found| found.pk).collect();
    let mut found: Vec<Resource> = page.into_iter().filter_map(|found| found.known).map(|known| *known).collect();
    found.extend(resources.at(&unread).await?);
    let mut shown: std::collections::BTreeMap<i64, Value> = std::collections::BTreeMap::new();
    for kind in Kind::ALL {
        let of_kind: Vec<Resource> = found.extract_if(.., |resource| resource.kind == kind).collect();
        let projection = projection(kind, query);
        for found in linked(resources, call, of_kind, &projection).await? {
            shown.insert(found.resource.pk, found.shown(&call.base, &projection));
        }
    }
    Ok(pks.iter().filter_map(|pk| shown.remove(pk)).collect())
}

/// What a filter and an order look at beside the resource itself. It is read; nothing else is.
#[derive(Debug)]
struct Needs {
    members: Option<Members>,
    groups: bool,
}

impl Needs {
    /// Groups that may not be read are not there for filter and order either: who finds somebody by them has read them.
    fn of(call: &Call, kind: Kind, (filter, sort): (Option<&Compiled>, Option<&Sort>)) -> Self {
        let place = sort.and_then(|sort| sort_place(kind, &sort.by));
        let sorts_by = |name| place.is_some_and(|place| place.is_core(name));
        let groups = sorts_by("groups") || filter.is_some_and(Compiled::asks_for_groups);
        Self {
            members: if sorts_by("members") { Some(Members::All) } else { filter.and_then(Compiled::members) },
            groups: groups && call.roles.allow(Access::Read, Kind::Group),
        }
    }
}

async fn matching(
    resources: &Resources,
    call: &Call,
    kind: Kind,
    (filter, sort): (Option<&Compiled>, Option<&Sort>),
    matches: &mut Vec<Match>,
) -> Result<(), Refusal> {
    let needs = Needs::of(call, kind, (filter, sort));
    let base = call.base.as_str();
    let mut look = |views: Vec<(i64, Document)>, mut known: Vec<Resource>| {
        for (pk, view) in views {
            if filter.is_none_or(|filter| filter.fits(&view)) {
                let sort_key = sort.and_then(|sort| sort_key(kind, &sort.by, &view));
                let known = known.extract_if(.., |resource| resource.pk == pk).next().map(Box::new);
                matches.push(Match { sort_key, pk, known });
            }
        }
    };
    if let Some(key) = filter.and_then(Compiled::key) {
        let candidates = resources.with_key(kind, &key).await?;
        let known = if candidates.len() <= MOST_KNOWN { candidates.clone() } else { Vec::new() };
        look(views(resources, base, candidates, &needs).await?, known);
        return Ok(());
    }
    let mut after = 0;
    loop {
        let slice = resources.slice(kind, Slice::After(after), SLICE).await?;
        let Some(last) = slice.last() else { return Ok(()) };
        after = last.pk;
        look(views(resources, base, slice, &needs).await?, Vec::new());
    }
}

/// Resources of one kind as a filter and an order see them.
async fn views(
    resources: &Resources,
    base: &str,
    found: Vec<Resource>,
    needs: &Needs,
) -> Result<Vec<(i64, Document)>, Refusal> {
    let pks: Vec<i64> = found.iter().map(|resource| resource.pk).collect();
    let kind = found.first().map(|resource| resource.kind);
    let mut links = match (kind, &needs.members) {
        (Some(Kind::Group), Some(Members::All)) => resources.members(&pks).await?,
        (Some(Kind::Group), Some(Members::These(ids))) => resources.members_among(&pks, ids).await?,
        (Some(Kind::User), _) if needs.groups => resources.groups(&pks).await?,
        _ => std::collections::BTreeMap::new(),
    };
    let view = |resource: Resource| {
        let (pk, kind) = (resource.pk, resource.kind);
        let mut view = plain(base, resource);
        if let Some(links) = links.remove(&pk) {
            match kind {
                Kind::Group => view.insert("members".to_owned(), render::members(base, &links)),
                Kind::User => view.insert("groups".to_owned(), render::groups(base, &links)),
            };
        }
        (pk, view)
    };
    Ok(found.into_iter().map(view).collect())
}
