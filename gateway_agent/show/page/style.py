"""Hold the style sheet of the page: light and dark, and fit for a screen of 400 pixels."""

STYLE = """\
:root { color-scheme: light dark; --text: #222; --page: #fff; --line: #ccc; --faint: #555; --good: #176b2c;
  --bad: #b00020; --box: #f4f4f4 }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --page: #181818; --line: #444; --faint: #aaa; --good: #6fcf87; --bad: #ff8a98; --box: #242424 }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 0; color: var(--text); background: var(--page) }
main { margin: 1em; overflow-wrap: anywhere }
h2 { font-size: 1.1em; margin: 1.2em 0 .3em } h3 { font-size: 1em; margin: 0 }
.wide { overflow-x: auto } .wide:focus-visible { outline: 2px solid var(--text) }
table { border-collapse: collapse; overflow-wrap: normal }
th, td { text-align: left; padding: .2em 1.2em .2em 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 500; color: var(--faint) } .good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
.nodes { display: flex; flex-wrap: wrap; gap: .7em; list-style: none; padding: 0; margin: 0 }
.node { border: 1px solid var(--line); border-radius: .4em; background: var(--box); padding: .6em .9em;
  max-width: 20em }
svg text { fill: var(--text); font-size: 13px } svg .faint { fill: var(--faint) } svg .end { text-anchor: end }
svg .middle { text-anchor: middle } svg .master { fill: var(--box); stroke: var(--line) }
svg .silent, svg .ends { fill: var(--bad) } svg .planned { fill: var(--good) }
.node p { margin: .1em 0 } .node ul { margin: 0; padding-left: 1.2em }
"""
