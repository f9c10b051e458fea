"""What tests share, one module a need; only `inside` and `apps` know what Petiole keeps to itself.

| module      | holds                                                                          |
|-------------|--------------------------------------------------------------------------------|
| `waiting`   | wait for a condition                                                           |
| `processes` | start workers and commands, run code in a process of its own, stop processes    |
| `forks`     | make these processes from one that has loaded Celery and Petiole               |
| `brokers`   | brokers to kill, freeze and fill: RabbitMQ, and a Valkey of one's own          |
| `proxy`     | a network between clients and the broker that can be slow, silent or gone      |
| `endpoint`  | an HTTP server that speaks OpenAI's chat completions                           |
| `traffic`   | publishers that count, and the count of what became of their events            |
| `names`     | names that a stranger chooses to reach what belongs to another                 |
| `apps`      | apps, and the command line on one of them                                      |
| `inside`    | what the broker and the state store hold, by the questions an operator has     |
"""
