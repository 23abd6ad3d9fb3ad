//! The constructs of the templates in the field, by family, with the prompts that each model was trained on.

use super::super::Role;
use super::*;
use std::time::{Duration, UNIX_EPOCH};

fn tokens() -> BTreeMap<String, String> {
    [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(name, token)| (name.to_owned(), token.to_owned())).into()
}

fn message(role: Role, content: &str) -> Message {
    Message::new(role, content)
}

fn turns() -> Vec<Message> {
    vec![message(Role::User, "Hi "), message(Role::Assistant, "Hello"), message(Role::User, "2+2?")]
}

fn with_system() -> Vec<Message> {
    [vec![message(Role::System, "Be <brief> & \"kind\".")], turns()].concat()
}

fn render(source: &str, messages: &[Message]) -> Result<String, TextError> {
    let july = UNIX_EPOCH + Duration::from_secs(1_721_952_000);
    let template = JinjaTemplate::new("a test", source, tokens());
    Ok(template.render(messages, &PromptOptions::default(), july)?.text)
}

#[test]
fn tiny_assistant_adds_its_own_bos() {
    let template = "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
                    message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ \
                    '<|im_start|>assistant\n' }}{% endif %}";
    assert_eq!(
        render(template, &with_system()[..2]).unwrap(),
        "<s><|im_start|>system\nBe <brief> & \"kind\".<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\n"
    );
}

/// Llama 3.1 and 3.2: custom tools, dates, slicing of the message list, `trim`.
#[test]
fn llama3() {
    let template = r#"{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The system message, if there is one, comes out of the list. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\n" }}
{{- "Today Date: " + date_string + "\n\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("This model only supports single tool-calls at once!") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"#;
    let head = "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n\
                Today Date: 26 Jul 2024\n\n";
    let talk = "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant\
                <|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>\
                <|start_header_id|>assistant<|end_header_id|>\n\n";
    assert_eq!(render(template, &turns()).unwrap(), format!("{head}{talk}"));
    assert_eq!(render(template, &with_system()).unwrap(), format!("{head}Be <brief> & \"kind\".{talk}"));
}

/// Qwen 3: namespaces, reversed slices, string methods with chained subscripts, `is string`, `is false`.
#[test]
fn qwen3() {
    let template = r#"{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "<|im_end|>\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"#;
    let mut messages = with_system();
    messages[2].content = "<think>\nwell\n</think>\n\nHello".to_owned();
    assert_eq!(
        render(template, &messages).unwrap(),
        "<|im_start|>system\nBe <brief> & \"kind\".<|im_end|>\n<|im_start|>user\nHi <|im_end|>\n<|im_start|>assistant\n\
         Hello<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    );
}

/// Gemma: renames a role, insists on alternation, has no system role.
#[test]
fn gemma() {
    let template = "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}\
                    {% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
                    {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
                    {% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}\
                    {% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim \
                    + '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}";
    assert_eq!(
        render(template, &turns()).unwrap(),
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n<start_of_turn>user\n2+2?\
         <end_of_turn>\n<start_of_turn>model\n"
    );
    let error = render(template, &with_system()).unwrap_err();
    assert_eq!(error.to_string(), "the chat template refuses this conversation: System role not supported");
    let twice = [message(Role::User, "a"), message(Role::User, "b")];
    assert!(matches!(render(template, &twice), Err(TextError::Refused(why)) if why.contains("must alternate")));
}

/// Phi-3.5: plain branches, `eos_token` when nothing is to be generated.
#[test]
fn phi3() {
    let template = "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + \
                    message['content'] + '<|end|>\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\n' + \
                    message['content'] + '<|end|>\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + \
                    message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ \
                    '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}";
    assert_eq!(
        render(template, &with_system()).unwrap(),
        "<|system|>\nBe <brief> & \"kind\".<|end|>\n<|user|>\nHi <|end|>\n<|assistant|>\nHello<|end|>\n<|user|>\n2+2?<|end|>\n\
         <|assistant|>\n"
    );
}

/// Mistral v0.3: `selectattr`, `rejectattr`, list filters, mutable loop state, the system message joined to the last user turn.
#[test]
fn mistral() {
    let template = r#"{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"#;
    assert_eq!(
        render(template, &with_system()).unwrap(),
        "<s>[INST] Hi [/INST] Hello</s>[INST] Be <brief> & \"kind\".\n\n2+2?[/INST]"
    );
    let tool = [message(Role::User, "a"), message(Role::Tool, "b")];
    assert!(matches!(render(template, &tool), Err(TextError::Refused(_))));
}

#[test]
fn tojson_is_pythons() {
    let messages = [message(Role::User, "a<b>'é\n")];
    assert_eq!(render("{{ messages | tojson }}", &messages).unwrap(), r#"[{"role": "user", "content": "a<b>'é\n"}]"#);
    assert_eq!(
        render("{{ {'a': [1, 2.5, true, none], 'b': {}} | tojson(indent=2) }}", &messages).unwrap(),
        "{\n  \"a\": [\n    1,\n    2.5,\n    true,\n    null\n  ],\n  \"b\": {}\n}"
    );
}

#[test]
fn runaway_templates_end() {
    let messages = turns();
    for source in [
        "{% for a in range(100000) %}{% for b in range(100000) %}{% set c = a %}{% endfor %}{% endfor %}",
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{{ 'x' * 100000000000 }}",
        "{{ messages[0].content.nothing() }}",
    ] {
        assert!(matches!(render(source, &messages), Err(TextError::Template { .. })), "{source}");
    }
    for source in ["{% if %}", "{{ ", "{% endfor %}"] {
        let error = render(source, &messages).unwrap_err();
        assert!(error.to_string().starts_with("the chat template of a test failed: "), "{error}");
    }
}
