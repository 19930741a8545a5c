# A post-receive hook: mirror.py API OWNER/REPO < "OLD NEW REF" lines, with the API's token in $API_TOKEN. Copies what was pushed to a GitHub-like API, object by
# object through its Git Data API, so that the git remote and the API are one repository. The ids must come out the same.
import base64, json, os, subprocess, sys, urllib.error, urllib.request
API, REPO, TOKEN = *sys.argv[1:3], os.environ['API_TOKEN']
def call(method, path, body):
    request = urllib.request.Request(f'{API}/repos/{REPO}/git/{path}', json.dumps(body).encode(), method=method,
                                     headers={'Authorization': f'Bearer {TOKEN}', 'Content-Type': 'application/json'})
    try: return json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as error:
        if method == 'PATCH': return None
        raise SystemExit(f'mirroring: {path}: {error.read()}')
def git(*args): return subprocess.check_output(['git', *args])
def same(made, sha):
    if made['sha'] != sha: raise SystemExit(f'mirroring: {sha} became {made["sha"]}')
for line in sys.stdin:
    old, new, ref = line.split()
    for commit in git('rev-list', '--reverse', new).decode().split():
        tree = []
        for entry in git('ls-tree', '-rz', commit).decode().split('\0')[:-1]:
            (mode, kind, sha), path = entry.split('\t')[0].split(), entry.split('\t')[1]
            same(call('POST', 'blobs', dict(encoding='base64', content=base64.b64encode(git('cat-file', 'blob', sha)).decode())), sha)
            tree.append(dict(path=path, mode=mode, type=kind, sha=sha))
        made, parents, *people = git('show', '-s', '--format=%T%n%P%n%an%n%ae%n%aI%n%cn%n%ce%n%cI', commit).decode().split('\n')[:8]
        same(call('POST', 'trees', dict(tree=tree)), made)
        author, committer = (dict(name=n, email=e, date=d) for n, e, d in (people[:3], people[3:]))
        message = git('cat-file', 'commit', commit).decode().split('\n\n', 1)[1]
        same(call('POST', 'commits', dict(message=message, tree=made, parents=parents.split(), author=author, committer=committer)), commit)
    if not call('PATCH', ref, dict(sha=new, force=True)):
        call('POST', 'refs', dict(ref=ref, sha=new))
