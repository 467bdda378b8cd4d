//! The last step of a program that carries a script: it sets the job's variables and becomes the interpreter.
//!
//! A shell exports what every shell exports as it is given. One variable of another sort (`my.key`, or `RANDOM`, which Bash
//! keeps for itself) sends all of them another way: in a file that the interpreter (for Bash: perl) reads, removes, and
//! sets them from. Never by arguments, which everybody on the host could read.
//!
//! The positional parameters are, here as there, the interpreter, an empty one, and the folder of the script: names of
//! shell variables may be the job's own.

use std::fmt::Write as _;

use crate::executors::complaint::SETUP_FAILED;
use crate::executors::helpers::{FOLDER, HelperFiles, shell_lines};
use crate::executors::names::{is_exportable, is_ignored_for_root};
use crate::executors::shebang::Shebang;
use crate::executors::shell::{Writer, file_name, quote, text};
use crate::job::{Language, Script};
use crate::secret::Secret;

/// How a script is started.
pub(super) struct Start<'a> {
    pub(super) script: &'a Script,
    pub(super) variables: &'a [(String, Secret)],
    pub(super) words: Words<'a>,
    /// The script's helpers, if it has any.
    pub(super) helpers: Option<&'a HelperFiles<'a>>,
}

/// Where the program has its last words: on stderr, which is file descriptor 3 so far, as
/// [`guard`](crate::executors::shell::guard) has it, unless there is a file for them.
#[derive(Default)]
pub(super) struct Words<'a> {
    /// Marks a complaint on stderr.
    pub(super) nonce: &'a str,
    /// A line for stderr when the script is about to start.
    pub(super) ready: Option<&'a str>,
    /// The name of a file in the script's folder that takes a complaint in place of stderr; that is the script's then.
    pub(super) file: Option<&'a str>,
}

/// The file with the variables, or with Node.js' first steps.
const HELPER: &str = "\"$3\"/.cronium-environment";

impl Start<'_> {
    /// Writes the step. The program has a function `f`, which complains and ends, also by a trap on its exit.
    pub(super) fn write(&self, w: &mut Writer) {
        let shebang = Shebang::of(text(self.script)).filter(|s| s.language() == Some(self.script.language));
        let shebang = shebang.unwrap_or_default();
        let mut variables: Vec<(&str, &str)> = self.variables.iter().map(|(n, v)| (n.as_str(), v.expose())).collect();
        // What the agent says of itself stays.
        for (name, value) in shebang.variables.iter().filter(|(name, _)| !name.starts_with("CRONIUM_")) {
            variables.retain(|(other, _)| other != name);
            variables.push((name, value));
        }
        let given = |name: &str| variables.iter().any(|(other, _)| *other == name);
        if self.script.language == Language::Python && given("LC_CTYPE") && !given("PYTHONCOERCECLOCALE") {
            // Python would put a locale of its choice in the place of one that it does not like.
            variables.push(("PYTHONCOERCECLOCALE", "0"));
        }
        let flags: String = shebang.flags.iter().fold(String::new(), |all, flag| all + " " + &quote(flag));
        let file = format!("\"$3\"/{}", file_name(self.script.language));
        let odd = variables.iter().any(|(name, _)| !is_exportable(self.script.language, name));
        for (name, _) in variables.iter().filter(|(name, _)| is_ignored_for_root(self.script.language, name)) {
            w.line(&format!("[ \"$(id -u)\" != 0 ] || f 'Bash passes the variable {name} by where root runs it'"));
        }
        let version = shebang.version().unwrap_or_default();
        if let Some(helpers) = self.helpers {
            helpers.write(w);
        }
        let flags = match (self.helpers, self.script.language) {
            (Some(_), Language::Node) => format!("{flags} --require \"$3\"/{FOLDER}/cronium.js"),
            _ => flags,
        };
        match self.script.language {
            Language::Bash if odd => self.through_perl(w, &variables, &flags, &file),
            Language::Python if odd => self.through_python(w, &variables, &flags, &file, version),
            Language::Node if odd || may_be_module(text(self.script)) => {
                let (odd, plain): (Vec<_>, Vec<_>) =
                    variables.iter().partition(|(name, _)| !is_exportable(Language::Node, name));
                self.through_node(w, &odd, &plain, &flags, &file);
            }
            _ => {
                self.export(w, &variables);
                if self.helpers.is_some() {
                    w.line(shell_lines(self.script.language));
                }
                self.open_stderr(w);
                if let Some(ready) = self.words.ready {
                    w.line(&format!("echo {} >&2", quote(ready)));
                }
                if !version.is_empty() {
                    let note = missing_version(version);
                    w.line(&format!("case $1 in */{version}) ;; *) echo {} >&2;; esac", quote(&note)));
                }
                self.become_program(w, "$1", &format!("\"$1\"{flags} {file}"));
            }
        }
    }

    /// Exports the variables, and looks that the shell has taken them as they are.
    fn export(&self, w: &mut Writer, variables: &[(&str, &str)]) {
        // What a shell thinks of a locale that is not there is no output of the job's.
        w.line("{ :");
        for (name, value) in variables {
            w.line(&format!(
                "set -- \"$1\" \"$2\" \"$3\" {}; export {name}=\"$4\"; [ \"${name}\" = \"$4\" ] || \
                 f 'its shell does not take the variable {name} as it is given'",
                quote(value)
            ));
        }
        w.line("} 2>/dev/null");
    }

    /// Becomes `program` by `command`. A shell that goes on after that says why; for any other its trap does.
    fn become_program(&self, w: &mut Writer, program: &str, command: &str) {
        w.line("command -v shopt >/dev/null && shopt -s execfail");
        w.line(&format!("trap 'f \"cannot start {program}:\"' 0"));
        w.line(&format!("exec {command} </dev/null"));
        w.line(&format!("f \"cannot start {program}:\""));
    }

    /// From here on stderr is the script's.
    fn open_stderr(&self, w: &mut Writer) {
        if self.words.file.is_none() {
            w.line("exec 2>&3 3>&-");
        }
    }

    fn through_perl(&self, w: &mut Writer, variables: &[(&str, &str)], flags: &str, file: &str) {
        let odd = variables.iter().map(|(name, _)| *name).filter(|name| !is_exportable(Language::Bash, name));
        let names = odd.collect::<Vec<_>>().join(", ");
        let missing = quote(&format!("there is no perl, which passes to Bash what no shell exports: {names}"));
        w.line(&format!("set -- \"$1\" \"$(command -v perl)\" \"$3\"; [ -n \"$2\" ] || f {missing}"));
        let mut code = "unlink $0;\ndelete $ENV{PERL_BADLANG};\n".to_owned();
        for (name, value) in variables {
            let _ = writeln!(code, "$ENV{{pack('H*','{}')}}=pack('H*','{}');", hex(name), hex(value));
        }
        if self.helpers.is_some() {
            code.push_str("$ENV{CRONIUM_BASH_ENV}=$ENV{BASH_ENV} if exists $ENV{BASH_ENV};\n");
            let _ = writeln!(code, "$ENV{{BASH_ENV}}=($0 =~ s{{[^/]*$}}{{}}r).'{FOLDER}/cronium.sh';");
        }
        if let Some(ready) = self.words.ready {
            let _ = writeln!(code, "syswrite STDERR, \"{ready}\\n\";");
        }
        let complain = match self.words.file {
            None => format!("syswrite STDERR, \"cronium setup {}: $m\\n\";", self.words.nonce),
            Some(name) => format!("$0 =~ s{{[^/]*$}}{{{name}}}; open(F, '>', $0); syswrite F, \"$m\\n\";"),
        };
        let _ = writeln!(
            code,
            "exec {{$ARGV[0]}} @ARGV;\n$m = \"cannot start $ARGV[0]: $!\";\n{complain}\nexit {SETUP_FAILED};"
        );
        w.file(HELPER, &code);
        self.open_stderr(w);
        // A locale that is not there is no news of the job's.
        w.line("export PERL_BADLANG=0");
        self.become_program(w, "$2", &format!("\"$2\" {HELPER} \"$1\"{flags} {file}"));
    }

    fn through_python(&self, w: &mut Writer, variables: &[(&str, &str)], flags: &str, file: &str, version: &str) {
        let mut code = "import os,sys\nos.unlink(sys.argv[0])\nu=lambda h:bytes(bytearray.fromhex(h))\n\
                        e=getattr(os,'environb',os.environ)\n"
            .to_owned();
        for (name, value) in variables {
            let _ = writeln!(code, "e[u('{}')]=u('{}')", hex(name), hex(value));
        }
        if self.helpers.is_some() {
            let _ = writeln!(
                code,
                "v=os.environ\nv['PYTHONPATH']=os.path.join(os.path.dirname(sys.argv[0]),'{FOLDER}')+\
                 (':'+v['PYTHONPATH'] if v.get('PYTHONPATH') else '')"
            );
        }
        if let Some(ready) = self.words.ready {
            let _ = writeln!(code, "os.write(2,b'{ready}\\n')");
        }
        if !version.is_empty() {
            let note = missing_version(version);
            let _ = writeln!(code, "if not sys.argv[1].endswith('/{version}'): os.write(2,b'{note}\\n')");
        }
        let complain = match self.words.file {
            None => format!("sys.stderr.write('cronium setup {}: '+m)", self.words.nonce),
            Some(name) => format!("open(os.path.join(os.path.dirname(sys.argv[0]),'{name}'),'w').write(m)"),
        };
        let _ = writeln!(
            code,
            "try: os.execv(sys.argv[1],sys.argv[1:])\nexcept OSError as x: m='cannot start %s: %s\\n'%(sys.argv[1],x)\n\
             {complain}\nsys.exit({SETUP_FAILED})"
        );
        w.file(HELPER, &code);
        self.open_stderr(w);
        self.become_program(w, "$1", &format!("\"$1\" -S {HELPER} \"$1\"{flags} {file}"));
    }

    /// Node.js cannot become another program: it sets what is left of its environment itself, finds out whether the
    /// script is a module, and runs it as if it had been started with it.
    fn through_node(&self, w: &mut Writer, odd: &[(&str, &str)], plain: &[(&str, &str)], flags: &str, file: &str) {
        let mut code =
            "const fs=require('fs'),u=h=>Buffer.from(h,'hex').toString();fs.unlinkSync(__filename);\n".to_owned();
        for (name, value) in odd {
            let _ = writeln!(code, "process.env[u('{}')]=u('{}');", hex(name), hex(value));
        }
        code.push_str(NODE_RUN);
        if let Some(ready) = self.words.ready {
            let _ = writeln!(code, "fs.writeSync(2,'{ready}\\n');");
        }
        code.push_str("require('module').runMain(process.argv[1]);\n");
        let helper = format!("{HELPER}.cjs");
        w.file(&helper, &code);
        self.export(w, plain);
        self.open_stderr(w);
        self.become_program(w, "$1", &format!("\"$1\"{flags} {helper} {file}"));
    }
}

/// Whether the script is a module is Node.js' own word: it is one if it cannot be read as CommonJS for a reason that a
/// module does not have. Some versions find this out by themselves, Node.js 18 does not.
const NODE_RUN: &str = r#"process.argv.splice(1,1);
if(((file,code)=>{
  const {compileFunction}=require('vm'),own=/import statement|import\.meta|token 'export'/;
  const fails=(text,names)=>{try{compileFunction(text,names);return ''}catch(e){return e instanceof SyntaxError?e.message:''}};
  const why=fails(code,['exports','require','module','__filename','__dirname']);
  if(!why||own.test(why))return why;
  const rest=fails('(async()=>{'+code+'\n})',[]);
  return !rest||own.test(rest);
})(process.argv[1],fs.readFileSync(process.argv[1],'utf8').replace(/^#!.*/,''))){
  const file=process.argv[1].replace(/js$/,'mjs');
  fs.renameSync(process.argv[1],file);
  process.argv[1]=file;
}
"#;

/// Whether the text has a word that a module needs: everything else is CommonJS without a look.
fn may_be_module(text: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$');
    text.split(|c| !part(c)).any(|word| matches!(word, "import" | "export" | "await"))
}

fn missing_version(version: &str) -> String {
    format!("cronium: the script asks for {version}, which is not here; the usual version runs it")
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}
