//! The check that a template only names what exists: variables of the schema, helpers with the right arguments, roles.
//!
//! It follows the engine's scoping (`each` and `with` change what a name means, `if` does not) without rendering anything.
//! Inside an untyped value all names pass; what is missing there shows when rendering. Called by `template::compile`.

use handlebars::Template;
use handlebars::template::{BlockParam, HelperTemplate, Parameter, TemplateElement};

use super::Fault;
use super::schema::{Kind, Shape};
use super::template::{Form, ROLES, helper};

/// What a path leads to; `None` is a value of which nothing is known.
type Found<'a> = Option<&'a Shape>;

struct Scope<'a> {
    here: Found<'a>,
    /// `as |item index|`
    names: Vec<(String, Found<'a>)>,
    /// `@index`, `@first` and so on exist.
    in_each: bool,
}

pub(super) struct Check<'a, 'f> {
    scopes: Vec<Scope<'a>>,
    faults: &'f mut Vec<Fault>,
    histories: usize,
}

impl<'a, 'f> Check<'a, 'f> {
    pub(super) fn new(input: &'a Shape, faults: &'f mut Vec<Fault>) -> Self {
        let root = Scope { here: Some(input), names: Vec::new(), in_each: false };
        Check { scopes: vec![root], faults, histories: 0 }
    }

    /// `line` stands in for elements that the engine gives no place (`else` chains).
    pub(super) fn template(&mut self, template: &Template, line: usize) {
        for (n, element) in template.elements.iter().enumerate() {
            let line = template.mapping.get(n).map_or(line, |place| place.0);
            match element {
                TemplateElement::Expression(call) | TemplateElement::HtmlExpression(call) => {
                    self.expression(call, line)
                }
                TemplateElement::HelperBlock(block) => self.block(block, line),
                TemplateElement::PartialExpression(_) | TemplateElement::PartialBlock(_) => {
                    self.fault(line, "partials (`{{>`) are not supported");
                }
                TemplateElement::DecoratorExpression(_) | TemplateElement::DecoratorBlock(_) => {
                    self.fault(line, "decorators (`{{*`) are not supported");
                }
                _ => {}
            }
        }
    }

    fn fault(&mut self, line: usize, message: impl Into<String>) {
        self.faults.push(Fault::new(line, message));
    }

    fn expression(&mut self, call: &HelperTemplate, line: usize) {
        let bare = call.params.is_empty() && call.hash.is_empty();
        if !bare || call.name.as_name().is_none_or(|name| helper(name).is_some()) {
            if let Parameter::Subexpression(_) = call.name {
                self.parameter(&call.name, line);
            } else {
                self.call(call, false, line);
            }
            return;
        }
        let found = self.parameter(&call.name, line);
        let name = call.name.as_name().unwrap_or_default();
        match found.map(|shape| &shape.kind) {
            Some(Kind::Object { .. }) => {
                self.fault(line, format!("`{name}` is an object; write `{{{{json {name}}}}}`"))
            }
            Some(Kind::Array(_)) => {
                self.fault(
                    line,
                    format!("`{name}` is an array; write `{{{{#each {name}}}}}` or `{{{{json {name}}}}}`"),
                );
            }
            _ => {}
        }
    }

    fn block(&mut self, block: &HelperTemplate, line: usize) {
        let found = self.call(block, true, line);
        let scope = match block.name.as_name() {
            Some("each") => {
                let item = match found.map(|shape| &shape.kind) {
                    Some(Kind::Array(item)) => Some(&**item),
                    _ => None,
                };
                Some(Scope { here: item, names: names(block, item), in_each: true })
            }
            Some("with") => {
                let in_each = self.scopes.last().is_some_and(|scope| scope.in_each);
                Some(Scope { here: found, names: names(block, found), in_each })
            }
            _ => None,
        };
        let deeper = scope.is_some();
        self.scopes.extend(scope);
        block.template.iter().for_each(|template| self.template(template, line));
        if deeper {
            self.scopes.pop();
        }
        block.inverse.iter().for_each(|template| self.template(template, line));
    }

    /// A helper and its arguments; gives what its first argument is.
    fn call(&mut self, call: &HelperTemplate, block: bool, line: usize) -> Found<'a> {
        let name = call.name.as_name().unwrap_or_default();
        let Some((least, most, form)) = helper(name) else {
            self.fault(line, format!("there is no helper called `{name}`"));
            return None;
        };
        if block != (form == Form::Block) {
            let right = if block {
                format!("{{{{{name} …}}}}")
            } else {
                format!("{{{{#{name} …}}}}…{{{{/{name}}}}}")
            };
            self.fault(line, format!("`{name}` is written `{right}`"));
        }
        if !(least..=most).contains(&call.params.len()) {
            let wanted = if least == most { least.to_string() } else { format!("{least} or more") };
            self.fault(line, format!("`{name}` takes {wanted} argument(s), not {}", call.params.len()));
        }
        match name {
            "role" => self.role(call, line),
            "history" => {
                self.histories += 1;
                if self.histories > 1 || self.scopes.len() > 1 {
                    self.fault(line, "`history` can stand only once");
                }
            }
            _ => {}
        }
        for (key, value) in &call.hash {
            if (name, key.as_str()) == ("json", "indent") {
                self.parameter(value, line);
            } else {
                self.fault(line, format!("`{name}` has no option `{key}`"));
            }
        }
        let found: Vec<Found> = call.params.iter().map(|param| self.parameter(param, line)).collect();
        found.first().copied().flatten()
    }

    /// A literal, never a variable: else a caller could choose who is speaking.
    fn role(&mut self, call: &HelperTemplate, line: usize) {
        let given = match call.params.first() {
            Some(Parameter::Literal(role)) => role.as_str(),
            _ => None,
        };
        if !ROLES.iter().any(|(name, ..)| Some(*name) == given) {
            self.fault(line, "`role` takes \"system\", \"user\" or \"model\", in quotes");
        }
    }

    fn parameter(&mut self, parameter: &Parameter, line: usize) -> Found<'a> {
        match parameter {
            Parameter::Literal(_) => None,
            Parameter::Subexpression(inner) => {
                if let TemplateElement::Expression(call) = inner.as_element() {
                    if helper(call.name.as_name().unwrap_or_default())
                        .is_some_and(|(.., form)| form == Form::Marker)
                    {
                        self.fault(line, "`role` and `history` cannot stand inside another expression");
                    }
                    self.call(call, false, line);
                }
                None
            }
            path => match self.resolve(path.as_name().unwrap_or_default()) {
                Ok(found) => found,
                Err(message) => {
                    self.fault(line, message);
                    None
                }
            },
        }
    }

    /// `raw` as it stands in the template: `name`, `a.b`, `a/[b c]`, `this.a`, `../a`, `@root.a`, `@index`.
    fn resolve(&self, raw: &str) -> Result<Found<'a>, String> {
        let segments = segments(raw);
        let mut rest = segments.as_slice();
        let innermost = self.scopes.len() - 1;
        let mut here = self.scopes[innermost].here;
        match rest.first().copied() {
            Some("@root") => {
                here = self.scopes[0].here;
                rest = &rest[1..];
            }
            Some(local) if local.starts_with('@') => return self.local(raw),
            Some("..") => {
                let up = rest.iter().take_while(|segment| **segment == "..").count();
                let scope = innermost.checked_sub(up).and_then(|n| self.scopes.get(n));
                here = scope.ok_or_else(|| format!("`{raw}` leads out of the variables"))?.here;
                rest = &rest[up..];
            }
            Some(name) => {
                let names = self.scopes.iter().rev().flat_map(|scope| &scope.names);
                if let Some((_, found)) = names.into_iter().find(|(known, _)| known == name) {
                    here = *found;
                    rest = &rest[1..];
                }
            }
            None => {}
        }
        for segment in rest.iter().filter(|segment| **segment != "this") {
            here = step(here, segment, raw)?;
        }
        Ok(here)
    }

    fn local(&self, raw: &str) -> Result<Found<'a>, String> {
        let name = raw.trim_start_matches(['@', '.', '/']);
        let in_each = self.scopes.iter().any(|scope| scope.in_each);
        match name {
            "index" | "key" | "first" | "last" if in_each => Ok(None),
            "index" | "key" | "first" | "last" => Err(format!("`{raw}` exists only inside `each`")),
            _ => Err(format!(
                "`{raw}` is not known (there are @root, and inside `each` @index, @key, @first, @last)"
            )),
        }
    }
}

fn names<'a>(block: &HelperTemplate, item: Found<'a>) -> Vec<(String, Found<'a>)> {
    let name = |parameter: &Parameter| parameter.as_name().unwrap_or_default().to_owned();
    match &block.block_param {
        Some(BlockParam::Single(value)) => vec![(name(value), item)],
        Some(BlockParam::Pair((value, key))) => vec![(name(value), item), (name(key), None)],
        _ => Vec::new(),
    }
}

/// Cut at `.` and `/`, with `..` whole and `[…]` taken as it is.
fn segments(raw: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    let mut rest = raw;
    while !rest.is_empty() {
        let (segment, after) = if let Some(after) = rest.strip_prefix("..") {
            ("..", after)
        } else if let Some((inside, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            (inside, after)
        } else {
            rest.split_at(rest.find(['.', '/']).unwrap_or(rest.len()))
        };
        if !segment.is_empty() {
            segments.push(segment);
        }
        rest = after.strip_prefix(['.', '/']).unwrap_or(after);
    }
    segments
}

fn step<'a>(here: Found<'a>, segment: &str, raw: &str) -> Result<Found<'a>, String> {
    let Some(shape) = here else { return Ok(None) };
    match &shape.kind {
        Kind::Any => Ok(None),
        Kind::Object { fields, rest } => match (fields.iter().find(|field| field.name == segment), rest) {
            (Some(field), _) => Ok(Some(&field.shape)),
            (None, Some(rest)) => Ok(Some(rest)),
            (None, None) => Err(format!("`{raw}`: `{segment}` is not in input.schema")),
        },
        Kind::Array(item) if segment.parse::<usize>().is_ok() => Ok(Some(item)),
        Kind::Array(_) => Err(format!("`{raw}`: an array has no `{segment}`; use `each`, a number or `len`")),
        _ => Err(format!("`{raw}`: {} has no field `{segment}`", shape.name())),
    }
}

#[cfg(test)]
mod tests {
    use crate::prompts::{Library, Source};

    const HEAD: &str = "---\ninput:\n  schema:\n    text: string\n    note?: string\n    open?: any\n    who?:\n      name: string\n    list(array):\n      key: string\n---\n";

    /// The faults of a body, as `line: message` with line 1 the body's first.
    fn faults(body: &str) -> Vec<String> {
        let text = format!("{HEAD}{body}");
        let above = HEAD.lines().count();
        let errors = Library::new([Source { file: "a.prompt", text: &text }]).err().unwrap_or_default();
        errors.iter().map(|error| format!("{}: {}", error.line - above, error.message)).collect()
    }

    #[test]
    fn what_exists_passes() {
        for body in [
            "{{text}} {{this.text}} {{./text}} {{@root.text}} {{{text}}} {{&text}}",
            "{{#if note}}{{note}}{{else if text}}{{text}}{{else}}{{open.a.b}}{{/if}}",
            "{{#each list}}{{@index}} {{key}} {{this.key}} {{../text}} {{@root.text}}{{#if @last}}.{{/if}}{{/each}}",
            "{{#each list as |item n|}}{{n}} {{item.key}} {{#with ../who as |w|}}{{w.name}} {{name}} {{item.key}}{{/with}}{{/each}}",
            "{{list.[0].key}} {{list.0.key}} {{lookup list 0}} {{len list}} {{json who indent=2}} {{json this}}",
            "{{#if (eq (len list) 1)}}{{(lookup list 0)}}{{/if}}{{!-- {{nobody}} --}}{{{{raw}}}}{{nobody}}{{{{/raw}}}}",
        ] {
            assert_eq!(faults(body), Vec::<String>::new(), "{body}");
        }
    }

    #[test]
    fn what_does_not_exist_is_told_with_its_line() {
        for (body, expected) in [
            ("ok\n{{txet}}", "2: `txet`: `txet` is not in input.schema"),
            ("{{#if text}}\n\n{{nope}}{{/if}}", "3: `nope`: `nope` is not in input.schema"),
            ("{{#if text}}\n{{else if nope}}\n{{/if}}", "1: `nope`: `nope` is not in input.schema"),
            ("{{#each list}}\n{{text}}{{/each}}", "2: `text`: `text` is not in input.schema"),
            ("{{who.age}}", "1: `who.age`: `age` is not in input.schema"),
            ("{{text.length}}", "1: `text.length`: string has no field `length`"),
            ("{{list.length}}", "1: `list.length`: an array has no `length`; use `each`, a number or `len`"),
            ("{{../text}}", "1: `../text` leads out of the variables"),
            ("{{@index}}", "1: `@index` exists only inside `each`"),
            (
                "{{#each list}}{{@auth.email}}{{/each}}",
                "1: `@auth.email` is not known (there are @root, and inside `each` @index, @key, @first, @last)",
            ),
            ("{{who}}", "1: `who` is an object; write `{{json who}}`"),
            ("{{list}}", "1: `list` is an array; write `{{#each list}}` or `{{json list}}`"),
            ("{{upper text}}", "1: there is no helper called `upper`"),
            ("{{log text}}", "1: there is no helper called `log`"),
            ("{{#if text note}}{{/if}}", "1: `if` takes 1 argument(s), not 2"),
            ("{{#json text}}{{/json}}", "1: `json` is written `{{json …}}`"),
            ("{{#if}}{{/if}}", "1: `if` takes 1 argument(s), not 0"),
            ("{{json text depth=1}}", "1: `json` has no option `depth`"),
            ("{{> header}}", "1: partials (`{{>`) are not supported"),
            ("{{#*inline \"a\"}}{{/inline}}", "1: decorators (`{{*`) are not supported"),
            ("{{history}}{{history}}", "1: `history` can stand only once"),
            ("{{role \"tool\"}}", "1: `role` takes \"system\", \"user\" or \"model\", in quotes"),
            ("{{role text}}", "1: `role` takes \"system\", \"user\" or \"model\", in quotes"),
            ("{{role (lookup open 0)}}", "1: `role` takes \"system\", \"user\" or \"model\", in quotes"),
            (
                "{{#if (role \"user\")}}{{/if}}",
                "1: `role` and `history` cannot stand inside another expression",
            ),
            ("a\u{fdd0}b", "1: the characters U+FDD0 to U+FDEF are reserved for role markers"),
        ] {
            assert_eq!(faults(body), [expected], "{body}");
        }
    }

    #[test]
    fn broken_syntax_has_its_line() {
        for (body, line) in [
            ("a\n{{#if text}}\nb", 3),
            ("a\n{{text", 2),
            ("a\n\n{{#if text}}b{{/each}}", 3),
            ("{{text}\n", 1),
        ] {
            let faults = faults(body);
            assert_eq!(faults.len(), 1, "{body}");
            assert!(faults[0].starts_with(&format!("{line}: template: ")), "{body}: {faults:?}");
        }
    }
}
