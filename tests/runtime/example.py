"""A complete program: an actor that crashes, and a supervisor that heals it."""

import msgspec
import trio
from pocketpaw.runtime import Actor, ActorSystem, Child, Message, Supervisor
from pocketpaw.runtime.errors import ActorDied


class Quotient(msgspec.Struct, frozen=True):
    value: float
    incarnation: int


class Divide(Message[Quotient], to="divider"):
    """Divide one number by another."""

    dividend: float
    divisor: float


class Divider(Actor):
    async def divide(self, message: Divide) -> Quotient:
        return Quotient(message.dividend / message.divisor, self.incarnation)


async def main() -> None:
    system = ActorSystem(Supervisor("root", children=[Child(Divider)]))
    async with trio.open_nursery() as nursery:
        await nursery.start(system.run)
        for divisor in (2, 0, 4):
            try:
                print(await system.ask(Divide(dividend=1, divisor=divisor)))
            except ActorDied as error:
                print(error)
        await system.stop()


if __name__ == "__main__":
    trio.run(main)
