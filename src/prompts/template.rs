//! The Handlebars body of a prompt: compiled, checked against the schema, rendered into pieces.
//!
//! Templates are the operator's and trusted (the engine has no fuel limit); variables are anyone's. A role or history
//! marker is one Unicode noncharacter that its helper writes, and [`disarm`] replaces all of that block in the variables
//! first: a single character cannot be put together from two values, so no value becomes a marker. A role is always a
//! literal in the template, which is checked here. Knows nothing of messages; `Library::render` makes those from pieces.

use handlebars::template::TemplateElement;
use handlebars::{
    Context, Handlebars, Helper, HelperDef, HelperResult, Output, RenderContext, Renderable, Template,
};
use handlebars::{RenderErrorReason, TemplateErrorReason};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Fault;
use super::schema::Shape;

/// Role names of dotprompt and of OpenAI, what a message calls them, and the marker.
pub(super) const ROLES: [(&str, &str, char); 4] = [
    ("system", "system", '\u{fdd0}'),
    ("user", "user", '\u{fdd1}'),
    ("model", "assistant", '\u{fdd2}'),
    ("assistant", "assistant", '\u{fdd2}'),
];
const HISTORY: char = '\u{fdd3}';

/// The whole block of noncharacters, which Unicode keeps out of interchanged text, so nothing legible is lost.
pub(super) fn is_reserved(c: char) -> bool {
    ('\u{fdd0}'..='\u{fdef}').contains(&c)
}

/// Takes the markers out of every string and key; U+FFFD stands where one was.
pub(super) fn disarm(value: Value) -> Value {
    let clean =
        |text: String| if text.contains(is_reserved) { text.replace(is_reserved, "\u{fffd}") } else { text };
    match value {
        Value::String(text) => Value::String(clean(text)),
        Value::Array(items) => items.into_iter().map(disarm).collect(),
        Value::Object(map) => Value::Object(
            map.into_iter().map(|(key, value)| (clean(key), disarm(value))).collect::<Map<_, _>>(),
        ),
        other => other,
    }
}

/// Helpers by name: how many arguments at least and at most, and whether they are blocks. The crate's `log` is left out:
/// it would write what users said to the log.
const HELPERS: [(&str, usize, usize, Form); 21] = [
    ("if", 1, 1, Form::Block),
    ("unless", 1, 1, Form::Block),
    ("each", 1, 1, Form::Block),
    ("with", 1, 1, Form::Block),
    ("ifEquals", 2, 2, Form::Block),
    ("unlessEquals", 2, 2, Form::Block),
    ("raw", 0, 0, Form::Block),
    ("lookup", 2, 2, Form::Inline),
    ("len", 1, 1, Form::Inline),
    ("json", 1, 1, Form::Inline),
    ("role", 1, 1, Form::Marker),
    ("history", 0, 0, Form::Marker),
    ("eq", 2, 2, Form::Inline),
    ("ne", 2, 2, Form::Inline),
    ("gt", 2, 2, Form::Inline),
    ("gte", 2, 2, Form::Inline),
    ("lt", 2, 2, Form::Inline),
    ("lte", 2, 2, Form::Inline),
    ("and", 2, usize::MAX, Form::Inline),
    ("or", 2, usize::MAX, Form::Inline),
    ("not", 1, 1, Form::Inline),
];

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Form {
    Block,
    Inline,
    Marker,
}

pub(super) fn helper(name: &str) -> Option<(usize, usize, Form)> {
    HELPERS.iter().find(|(helper, ..)| *helper == name).map(|(_, least, most, form)| (*least, *most, *form))
}

pub(super) fn is_helper(name: &str) -> bool {
    helper(name).is_some()
}

/// The engine with dotprompt's helpers; it holds no templates.
pub(super) fn engine() -> Handlebars<'static> {
    let mut engine = Handlebars::new();
    engine.set_strict_mode(true);
    // The result goes to a model, not into a page.
    engine.register_escape_fn(handlebars::no_escape);
    engine.register_helper("role", Box::new(role));
    engine.register_helper("history", Box::new(history));
    engine.register_helper("json", Box::new(json));
    engine.register_helper("ifEquals", Box::new(Equals(true)));
    engine.register_helper("unlessEquals", Box::new(Equals(false)));
    engine
}

type Engine<'a> = Handlebars<'a>;

fn role(h: &Helper, _: &Engine, _: &Context, _: &mut RenderContext, out: &mut dyn Output) -> HelperResult {
    let given = h.param(0).and_then(|param| param.value().as_str());
    let marker = ROLES.iter().find(|(name, ..)| Some(*name) == given).map(|(.., marker)| *marker);
    let marker = marker.ok_or_else(|| RenderErrorReason::Other("no such role".to_owned()))?;
    Ok(out.write(marker.encode_utf8(&mut [0; 4]))?)
}

fn history(_: &Helper, _: &Engine, _: &Context, _: &mut RenderContext, out: &mut dyn Output) -> HelperResult {
    Ok(out.write(HISTORY.encode_utf8(&mut [0; 4]))?)
}

fn json(h: &Helper, _: &Engine, _: &Context, _: &mut RenderContext, out: &mut dyn Output) -> HelperResult {
    let value = h.param(0).map_or(&Value::Null, |param| param.value());
    let indent = h.hash_get("indent").and_then(|indent| indent.value().as_u64()).unwrap_or(0).min(8);
    if indent == 0 {
        return Ok(out.write(&value.to_string())?);
    }
    let pad = " ".repeat(usize::try_from(indent).unwrap_or(0));
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(pad.as_bytes());
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
        .map_err(RenderErrorReason::from)?;
    Ok(out.write(&String::from_utf8(bytes).map_err(RenderErrorReason::from)?)?)
}

/// `ifEquals` and `unlessEquals`: the block if both values are equal, types included (or if they are not).
struct Equals(bool);

impl HelperDef for Equals {
    fn call<'reg: 'rc, 'rc>(
        &self,
        h: &Helper<'rc>,
        engine: &'reg Handlebars<'reg>,
        context: &'rc Context,
        state: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        let equal = h.param(0).map(|param| param.value()) == h.param(1).map(|param| param.value());
        let branch = if equal == self.0 { h.template() } else { h.inverse() };
        branch.map_or(Ok(()), |template| template.render(engine, context, state, out))
    }
}

/// Compiles the body and checks every reference in it against `input`. Nothing comes back if there were faults.
pub(super) fn compile(body: &str, input: &Shape, faults: &mut Vec<Fault>) -> Option<Template> {
    let mut template = match Template::compile(body) {
        Ok(template) => template,
        Err(error) => {
            let line = error.pos().map_or(1, |(line, _)| line);
            faults.push(Fault::new(line, syntax_message(error.reason())));
            return None;
        }
    };
    let before = faults.len();
    for (n, _) in body.lines().enumerate().filter(|(_, line)| line.contains(is_reserved)) {
        faults.push(Fault::new(n + 1, "the characters U+FDD0 to U+FDEF are reserved for role markers"));
    }
    let mut check = super::references::Check::new(input, faults);
    check.template(&template, 1);
    lay_out(&mut template);
    if let Some(TemplateElement::RawString(text)) = template.elements.first_mut() {
        *text = text.trim_start().to_owned();
    }
    if let Some(TemplateElement::RawString(text)) = template.elements.last_mut() {
        *text = text.trim_end().to_owned();
    }
    (faults.len() == before).then_some(template)
}

fn syntax_message(reason: &TemplateErrorReason) -> String {
    match reason {
        TemplateErrorReason::MismatchingClosedHelper(open, close) => {
            format!("template: `{{{{#{open}}}}}` is closed by `{{{{/{close}}}}}`")
        }
        // The engine lists everything that a template may contain; a forgotten end is what it nearly always means.
        TemplateErrorReason::InvalidSyntax(expected) if expected.contains("helper_block_end") => {
            "template: this cannot stand here, or a block above is never closed".to_owned()
        }
        TemplateErrorReason::InvalidSyntax(_) => "template: this expression cannot be read".to_owned(),
        other => format!("template: {other}"),
    }
}

/// Prepares a checked template: white space in the template next to a marker is layout, not part of a message (dotprompt
/// keeps it; models do not gain by it, and some providers refuse it); and `each` and `with` over an optional value that
/// was not given render nothing, where strict mode without an `else` would fail. Values are not touched.
fn lay_out(template: &mut Template) {
    let elements = &mut template.elements;
    for n in 0..elements.len() {
        if is_marker(&elements[n]) {
            if let Some(TemplateElement::RawString(text)) =
                n.checked_sub(1).and_then(|before| elements.get_mut(before))
            {
                text.truncate(text.trim_end().len());
            }
            if let Some(TemplateElement::RawString(text)) = elements.get_mut(n + 1) {
                *text = text.trim_start().to_owned();
            }
        }
        if let TemplateElement::HelperBlock(block) = &mut elements[n] {
            block.template.iter_mut().for_each(lay_out);
            block.inverse.iter_mut().for_each(lay_out);
            if matches!(block.name.as_name(), Some("each" | "with")) && block.inverse.is_none() {
                block.inverse = Some(Template::new());
            }
        }
    }
}

fn is_marker(element: &TemplateElement) -> bool {
    let (TemplateElement::Expression(call) | TemplateElement::HtmlExpression(call)) = element else {
        return false;
    };
    call.name.as_name().and_then(helper).is_some_and(|(.., form)| form == Form::Marker)
}

/// What a rendered body consists of, in order.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    Role(&'static str),
    History,
    Text(&'a str),
}

pub(super) fn pieces(rendered: &str) -> impl Iterator<Item = Piece<'_>> {
    rendered.split_inclusive(is_reserved).flat_map(|run| {
        let marker = run.chars().next_back().filter(|c| is_reserved(*c));
        let text = run.trim_end_matches(is_reserved);
        let role = ROLES.iter().find(|(.., c)| Some(*c) == marker).map(|(_, role, _)| Piece::Role(role));
        let piece = role.or((marker == Some(HISTORY)).then_some(Piece::History));
        (!text.is_empty()).then_some(Piece::Text(text)).into_iter().chain(piece)
    })
}

/// Why a checked template did not render.
#[derive(Debug)]
pub(super) enum Failure {
    TooLarge,
    /// The values lack something that only an untyped (`any`) or optional part of the schema could have told.
    Value {
        path: Option<String>,
        problem: String,
    },
}

/// `variables` must be complete and disarmed. At most `limit` bytes come back.
pub(super) fn render(
    engine: &Handlebars,
    template: &Template,
    variables: Value,
    limit: usize,
) -> Result<String, Failure> {
    let mut out = Bounded { text: String::new(), limit, full: false };
    let context = Context::from(variables);
    let result = template.render(engine, &context, &mut RenderContext::new(None), &mut out);
    match result {
        Ok(()) => Ok(out.text),
        Err(_) if out.full => Err(Failure::TooLarge),
        Err(error) => Err(match error.reason() {
            RenderErrorReason::MissingVariable(path) => Failure::Value {
                path: path.clone(),
                problem: "the prompt needs it, but it is not there".to_owned(),
            },
            RenderErrorReason::InvalidJsonIndex(field) => {
                Failure::Value { path: None, problem: format!("an array has no field `{field}`") }
            }
            other => Failure::Value { path: None, problem: other.to_string() },
        }),
    }
}

/// Stops rendering at its limit: loops in a template multiply what a caller sends.
struct Bounded {
    text: String,
    limit: usize,
    full: bool,
}

impl Output for Bounded {
    fn write(&mut self, segment: &str) -> std::io::Result<()> {
        self.full |= self.text.len() + segment.len() > self.limit;
        if self.full {
            return Err(std::io::Error::other("the rendered prompt is too large"));
        }
        self.text.push_str(segment);
        Ok(())
    }
}
