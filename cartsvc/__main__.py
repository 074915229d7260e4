from cartsvc.cli import main

main()
