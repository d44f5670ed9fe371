"""HTML page of the shop."""

from __future__ import annotations

import time
from html import escape
from string import Template

from stores import Visit

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The shop</title>
<style>
  :root {
    color-scheme: light dark;
    --ink: #1d2733; --soft: #5b6876; --paper: #f5f2ec; --card: #fff; --line: #e2dcd0; --mark: #b4471f;
  }
  @media (prefers-color-scheme: dark) {
    :root { --ink: #eceff3; --soft: #a2adba; --paper: #161a20; --card: #1f252d; --line: #333c47; --mark: #f0936b; }
  }
  * { box-sizing: border-box; }
  body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
  main { max-width: 46rem; margin: 0 auto; padding: 3rem 1.25rem; }
  h1 { margin: 0; font: 600 2.25rem/1.2 Georgia, serif; }
  header p, footer { color: var(--soft); }
  .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; margin: 2rem 0; }
  .card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.25rem 1.5rem; }
  .card h2 { margin: 0; color: var(--soft); font-size: .875rem; font-weight: 600; }
  .card p { margin: 0; color: var(--soft); font-size: .875rem; }
  .card .big { margin: .25rem 0; color: var(--ink); font: 600 2.5rem/1.2 Georgia, serif; }
  a { color: var(--mark); }
  .problem { border-left: .25rem solid var(--mark); padding: .25rem 1rem; margin: .5rem 0; }
  footer { font-size: .875rem; }
</style>
</head>
<body>
<main>
<header><h1>The shop</h1><p>One web app, a Redis and a memcached, deployed with one command.</p></header>
$problems
<section class="cards">
<div class="card"><h2>Visits</h2><p class="big" id="visits">$visits</p><p>counted in Redis, kept on a volume</p></div>
<div class="card"><h2>Today's offer</h2><p class="big">$percent % off</p><p>$product, $source</p></div>
</section>
<footer>Version $version, answered by container $host. <a href="/?format=json">The same as JSON</a></footer>
</main>
</body>
</html>
""")


def render(visit: Visit, now: float | None = None) -> str:
    """Render ``visit`` as HTML; ``now`` is in seconds since 1970. External input is escaped."""
    age = max(0, round((time.time() if now is None else now) - visit.offer.calculated_at))
    source = f"from memcached, {age} s old" if visit.offer.from_cache else "calculated for this page"
    problems = "".join(f'<p class="problem">{escape(problem)}</p>\n' for problem in visit.problems)
    return _PAGE.substitute(
        problems=problems,
        visits="not known" if visit.visits is None else f"{visit.visits:,}",
        percent=visit.offer.percent,
        product=escape(visit.offer.product),
        source=source,
        version=escape(visit.version),
        host=escape(visit.host),
    )
